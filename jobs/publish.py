"""Publish an artifact: weights for timm, torchvision, ONNX and torch.export, of its encoder and of
the head that tells classes, each loaded back and compared, and a model card."""

import json
import os
import re
import sys
import tempfile
from importlib import metadata
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from jobs.cluster import launch
from jobs.publishing import equality, model_card, probe_results, run_curves
from jobs.publishing.equality import TOLERANCE
from jobs.publishing.model_card import Published
from jobs.publishing.probe_results import Score
from jobs.publishing.run_curves import RunLog
from jobs.setup import registered, run_artifact
from jobs.setup.claims import check_writable, claim, recorded
from jobs.setup.command_line import InputError, main
from jobs.setup.inputs import load_artifact
from jobs.setup.sections import JobConfig
from models.artifact import Artifact
from models.method import MEDIA_WORDS
from models.publishing.form import Form, Unsupported
from models.publishing.forms import FORMS, missing_packages
from models.publishing.places import name_of
from pipelines.corpus.file_kinds import medium_of
from pipelines.storage import uris
from pipelines.storage.copies import put_file

RECORD = "publish.json"
CHECKS = "checks.json"
CARD = "README.md"

FormName = Literal["timm", "torchvision", "onnx", "torch_export", "safetensors"]


def _listed(value: object) -> object:
    """Take one word, or several between commas, as a list of them."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


def _as_hubs_spell_it(license: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise ValueError(
            f"license {license!r} is not as hubs spell it: apache-2.0, mit, cc-by-4.0, other"
        )
    return license


class PublishConfig(JobConfig):
    """A publication of an artifact."""

    example: ClassVar[str] = "artifact=runs/a/artifact out=runs/a-published license=apache-2.0"
    most_used: ClassVar[tuple[str, ...]] = ("artifact", "out", "formats", "license", "probes")

    artifact: str = Field(
        min_length=1,
        description="the encoder: a path or s3:// prefix, or NAME@ALIAS in a registry",
    )
    out: str = Field(
        min_length=1, description="folder of the files; new, or holding the same artifact's"
    )
    formats: Annotated[tuple[FormName, ...] | None, BeforeValidator(_listed)] = Field(
        None,
        min_length=1,
        description=f"of {', '.join(FORMS)}; null: all that the encoder has",
        examples=["[FORMAT,...]"],
    )
    license: Annotated[str, AfterValidator(_as_hubs_spell_it)] = Field(
        "unknown", description="of the weights, as hubs spell it: apache-2.0, mit, cc-by-4.0, other"
    )
    name: str | None = Field(None, min_length=1, description="of the model; null: method, encoder")
    datasets: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (),
        description="names of the training data on a hub; []: the last name of the source",
        examples=["[NAME,...]"],
    )
    probes: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (),
        description="results of jobs.adapt --json, files or folders; []: the run's own",
        examples=["[URI,...]"],
    )
    run: str | None = Field(
        None, min_length=1, description="the run, for curves; null: the one around the artifact"
    )


def publish(config: PublishConfig) -> dict[str, Any]:
    """Write the forms that are asked for and that are equal to the artifact, and the card.

    Returns:
        `formats` by name with `files` (and their bytes), `difference` and `packages`; `left_out`
        and `unequal` by name with the reason or the difference; `card`; `exit_code` 1 where one is
        unequal.

    Raises:
        InputError: no artifact, a form that the encoder has not or whose packages are missing, or
            an `out` that holds something else.
    """
    out = launch.absolute_out(config.out)
    given = launch.user_uri("artifact", config.artifact)
    registered.check_reachable("artifact", given)
    check_writable("out", out)
    place = run_artifact.find(given, began=recorded(out, RECORD))
    artifact = load_artifact(place)
    if medium_of(media := artifact.encoder.media) != "pictures":
        raise InputError(
            f"artifact {config.artifact} is an encoder of {MEDIA_WORDS[media]}, of which there is"
            " no form to publish: afield.load reads it as it is"
        )
    forms, left_out = _forms(config, artifact)
    log, scores = _measured(config, artifact, place)
    claim("publication", out, RECORD, {"format": 1, "artifact_digest": artifact.digest})
    _tell_alone(forms)
    unequal = _write(out, artifact, forms)
    checks = _checks(out)
    if checks:
        _write_card(config, out, artifact, left_out, log, scores)
    return {
        "artifact_digest": artifact.digest,
        "formats": checks,
        "left_out": left_out,
        "unequal": unequal,
        "card": uris.join(out, CARD) if checks else None,
        "exit_code": 1 if unequal else 0,
        "result": out,
    }


def _measured(config: PublishConfig, artifact: Artifact, place: str) -> tuple[RunLog, list[Score]]:
    """Read what the run logged, and what probes have measured."""
    probes = tuple(launch.user_uri("probes", each) for each in config.probes)
    run = None if config.run is None else launch.user_uri("run", config.run)
    scores = probe_results.read_given(probes, artifact.digest)
    log = run_curves.find(artifact, place, run)
    if not probes and log.probes is not None:
        scores = probe_results.read_beside(log.probes, artifact.digest)
    return log, scores


def _forms(config: PublishConfig, artifact: Artifact) -> tuple[list[Form], dict[str, str]]:
    """Build the forms that are wanted.

    Returns:
        Them, and why others are left out where nobody asked for them by name.

    Raises:
        InputError: one was asked for by name, and the encoder has it not, or packages are missing.
    """
    forms = []
    left_out = {}
    for name, kind in FORMS.items():
        if config.formats is not None and name not in config.formats:
            continue
        if missing := missing_packages(kind):
            reason = f"{', '.join(missing)} missing: pip install 'afield[publish]'"
        else:
            try:
                forms.append(kind(artifact))
                continue
            except Unsupported as error:
                reason = str(error)
        if config.formats is not None:
            raise InputError(f"formats={name} cannot be written: {reason}")
        print(f"{name} is left out: {reason}", file=sys.stderr)
        left_out[name] = reason
    return forms, left_out


def _tell_alone(forms: list[Form]) -> None:
    """Say in one line which forms hold the encoder alone, though the artifact has a head."""
    alone = [f"{form.name} ({form.alone})" for form in forms if form.alone]
    if alone:
        print(f"the encoder alone, without its head: {'; '.join(alone)}", file=sys.stderr)


def _write(out: str, artifact: Artifact, forms: list[Form]) -> dict[str, float]:
    """Write the forms that are not there yet, each once it is equal.

    Returns:
        Those that are not, with their difference.
    """
    images = equality.check_images(artifact)
    unequal = {}
    for form in forms:
        checks = _checks(out)
        if form.name in checks:
            print(f"{form.name} is there already", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="afield-publish-") as folder:
            form.write(folder)
            difference = equality.difference(form, form.load(folder), images)
            if not difference <= TOLERANCE:
                unequal[form.name] = difference
                print(
                    f"{form.name} is not written: loaded back, what it gives differs by"
                    f" {difference:.1e}, more than {TOLERANCE:.0e}",
                    file=sys.stderr,
                )
                continue
            for name in form.files:
                put_file(os.path.join(folder, name), uris.join(out, name))
            sizes = {name: os.path.getsize(os.path.join(folder, name)) for name in form.files}
        checks[form.name] = {
            "files": sizes,
            "difference": difference,
            "outputs": list(form.outputs),
            "packages": {name: metadata.version(name) for name in form.packages},
        }
        uris.write_bytes(uris.join(out, CHECKS), json.dumps(checks, indent=2).encode())
        print(f"{form.name} is written; difference {difference:.1e}", file=sys.stderr)
    return unequal


def _write_card(
    config: PublishConfig,
    out: str,
    artifact: Artifact,
    left_out: dict[str, str],
    log: RunLog,
    scores: list[Score],
) -> None:
    """Write the card, and the curves that it shows."""
    curves = run_curves.draw(log.lines, artifact.embed_dim)
    for drawing in curves:
        uris.write_bytes(uris.join(out, run_curves.FOLDER, drawing.name), drawing.data)
    source = name_of(str(artifact.provenance.get("source") or ""))
    checks = _checks(out)
    written = {name: FORMS[name](artifact) for name in checks}
    told = Published(
        name=config.name or _name(artifact),
        license=config.license,
        datasets=config.datasets or ((source,) if source else ()),
        artifact=artifact,
        checks=checks,
        usages={name: form.usage() for name, form in written.items()},
        alone={name: form.alone for name, form in written.items() if form.alone},
        left_out={name: why for name, why in left_out.items() if name not in checks},
        scores=scores,
        lines=log.lines,
        curves=curves,
    )
    uris.write_bytes(uris.join(out, CARD), model_card.write(told).encode())


def _checks(out: str) -> dict[str, Any]:
    """Read which forms are whole: those that were checked and whose files are all there."""
    place = uris.join(out, CHECKS)
    if not uris.exists(place):
        return {}
    found: dict[str, Any] = json.loads(uris.read_bytes(place))
    there = uris.list_names(out)
    return {
        name: check
        for name, check in found.items()
        if name in FORMS
        and all(
            file in there and uris.size(uris.join(out, file)) == size
            for file, size in check["files"].items()
        )
    }


def _name(artifact: Artifact) -> str:
    method = artifact.config.get("method")
    named = f"{method['name']}-" if isinstance(method, dict) and "name" in method else ""
    return f"{named}{artifact.encoder.name}".replace(":", "-")


if __name__ == "__main__":
    sys.exit(main("publish", __doc__ or "", lambda values: (PublishConfig, values), publish))
