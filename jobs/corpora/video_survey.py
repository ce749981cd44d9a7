"""Have the videos of a corpus looked at, once, for what clips are drawn by."""

import pyarrow as pa

from jobs.setup.bad_samples import BadSamples
from jobs.setup.failures import InputError
from jobs.setup.sections import SourceConfig
from pipelines.corpus.manifest import Manifest
from pipelines.motion.curve_files import Curves, reasons
from pipelines.motion.motion_survey import MotionSurvey, bad_videos
from pipelines.motion.optical_flow import FlowKind, lacking
from pipelines.stream import quarantine


def survey(source: SourceConfig, manifest: Manifest, flow: FlowKind | None) -> BadSamples:
    """Look once at every frame of the videos, and keep how they change beside the version; what was
    looked at for an earlier version is not looked at again.

    Args:
        source: What a video may cost, and how many may be bad.
        manifest: The version.
        flow: How motion is looked for as well; None: not at all.

    Returns:
        How many videos there are, and why some could not be looked at.

    Raises:
        RunError: too many cannot be used.
        InputError: what finds flow is not installed.
    """
    if flow is not None and (problem := lacking()):
        raise InputError(f"clip.flow {flow} needs {problem}")
    curves = Curves(manifest.uri, manifest.version, flow)
    folder = bad_videos(manifest.uri)
    bad = BadSamples(source.max_bad_fraction, folder)
    found = [curves.index()] if curves.exist() else []
    if found:
        bad.add(found[0].num_rows, reasons(found[0]))
    else:
        for some in MotionSurvey(manifest.uri, source.limits(), flow).found(manifest):
            found.append(some)
            bad.add(some.num_rows, reasons(some))
            bad.check()
        bad.check(final=True)
        quarantine.compact(folder, quarantine.FEW)
        curves.write_index(pa.concat_tables(found))
    bad.tell()
    return bad
