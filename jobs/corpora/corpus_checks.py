"""Whether a corpus holds what the method of a run eats."""

from augment.recipe import Views
from jobs.corpora.paired_source import check_poses_given
from jobs.setup.failures import InputError
from jobs.setup.inputs import check_media
from jobs.training.run_config import PretrainConfig
from models.registry import method_class
from pipelines import schema
from pipelines.corpus.manifest import Manifest


def check_corpus(config: PretrainConfig, manifest: Manifest) -> None:
    """Refuse a corpus whose samples the method cannot eat.

    Raises:
        InputError: with what helps.
    """
    method = method_class(config.method.name)
    check_media(
        manifest,
        as_frames=config.clip.as_frames,
        name=config.method.name,
        media=config.media,
        columns={name: of for name, of in method.columns.items() if name not in schema.READ_BESIDE},
    )
    if schema.SOUND in method.columns and not manifest.media.get(schema.VIDEO):
        raise InputError(
            f"source.uri {manifest.source} holds no videos, whose sound"
            f" method.name={config.method.name} learns with: give it another source"
        )
    check_captions(config, takes=schema.CAPTION in method.columns)
    config.clip.check(manifest)
    if isinstance(config.views, Views):
        config.clip.check_flow(config.method.name, config.views, takes_flow=method.flow)
    check_pair(config, manifest)


def check_captions(config: PretrainConfig, *, takes: bool) -> None:
    """Refuse captions where the method takes none, and a method of captions without.

    Raises:
        InputError: with what helps.
    """
    name = f"method.name={config.method.name}"
    given = config.source.captions
    if takes and given is None:
        raise InputError(
            f"{name} needs a caption of each sample: name the files by source.captions, as"
            " ./{stem}.txt, or a table of them, as captions.csv"
        )
    if given is not None and not takes:
        raise InputError(f"source.captions {given}: {name} takes no captions, leave it out")


def check_pair(config: PretrainConfig, manifest: Manifest) -> None:
    """Refuse second images where they are not what the method takes, or could not be cut alike.

    Raises:
        InputError: with what helps.
    """
    kinds = method_class(config.method.name).pairs
    name = f"method.name={config.method.name}"
    posed = method_class(config.method.name).posed
    check_poses_given(config.source, name, posed=posed)
    if kinds and config.encoder.split is not None:
        kinds = ()
        name = f"encoder.split={config.encoder.split}"
    given = config.source.pair or config.source.poses
    if given is None and not kinds:
        return
    if given is None:
        raise InputError(
            f"{name} needs a second image of each sample: name it by source.pair, as"
            " ../depth/{stem}.png, with source.pair_kind=" + " or ".join(kinds) + "; or set"
            " encoder.split=lab, which takes lightness and colours for two"
        )
    if not kinds:
        raise InputError(f"source.pair {given}: {name} takes no second image, leave it out")
    if config.source.pair_kind not in kinds:
        raise InputError(
            f"source.pair_kind {config.source.pair_kind}: {name} takes {' or '.join(kinds)}"
        )
    if manifest.media.get(schema.VIDEO):
        raise InputError(
            f"source.uri {manifest.source} holds videos, which have no second image: leave them"
            " out with clip.per_video=0"
        )
    group, views = next(iter(config.image_views.groups.items()))
    if turn := views.turning():
        raise InputError(
            f"views.groups.{group}.{turn} would turn the first image alone: leave it out"
        )
