"""Probe a frozen artifact on labelled images or videos, beside the untrained encoder and plain
colour; tell classes by their names and find captions with it; follow masks or key points through
videos; compare the texts it finds alike with what people say; or train it with the labels."""

import json
import sys
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

from jobs.adaptation import labelled_sets, leak_check
from jobs.adaptation.checkpoint_probes import probe_checkpoints
from jobs.adaptation.trained import adapt_by_training
from jobs.adaptation.training_sections import (
    TrainedAdaptConfig,
    TrainedProbeConfig,
    with_defaults,
)
from jobs.cluster import launch
from jobs.probing.from_scratch import FOLDER, scratch_in
from jobs.probing.frozen_features import embed_labelled
from jobs.probing.frozen_probes import judge
from jobs.probing.patch_probe import judge_patches
from jobs.probing.probe_sections import AdaptConfig, ProbeConfig
from jobs.probing.propagate_probe import judge_sequences
from jobs.probing.propagate_sections import PropagateConfig
from jobs.probing.similarity_probe import judge_pairs
from jobs.probing.similarity_sections import SimilarityConfig
from jobs.reporting.adaptation_page import RESULT, leave
from jobs.reporting.figures import Drawing
from jobs.setup import run_artifact
from jobs.setup.claims import check_empty, check_writable, differing, recorded, refusal
from jobs.setup.command_line import InputError, main
from jobs.setup.inputs import load_artifact
from jobs.text_probes.caption_probe import judge_captions
from jobs.text_probes.text_probe_sections import RetrieveCaptionsConfig, ZeroShotConfig
from jobs.text_probes.zero_shot_probe import judge_zero_shot
from pipelines.storage import uris

__all__ = ["AdaptConfig", "ProbeConfig", "adapt", "embed_labelled", "judge"]

FrozenConfig = (
    AdaptConfig | PropagateConfig | SimilarityConfig | ZeroShotConfig | RetrieveCaptionsConfig
)
_OTHERS: dict[str, type[FrozenConfig]] = {
    "propagate": PropagateConfig,
    "similarity": SimilarityConfig,
    "zero_shot": ZeroShotConfig,
    "retrieve_captions": RetrieveCaptionsConfig,
}


def adapt(config: AdaptConfig) -> dict[str, Any]:
    """Embed the labelled images and judge each kind of features; of every checkpoint if asked.

    Returns:
        What `--json` prints; also in `out/adaptation.json`, where there is an `out`.

    Raises:
        InputError: the labels or the artifacts cannot be judged so.
    """
    if config.probe.scratch and (config.every_checkpoint or config.out is None):
        raise InputError(
            "probe.scratch=true trains beside one artifact, in out: give out, and leave out"
            " every_checkpoint"
        )
    if config.every_checkpoint:
        return probe_checkpoints(
            config.artifact, config.out, config.cluster, lambda place: _judge(_alone(config, place))
        )
    if config.out is None:
        return _judge(config)
    out, artifact = _claimed(config, config.out)
    result = _judge(config.model_copy(update={"artifact": artifact}), out)
    return _left(out, artifact, result)


def propagate(config: PropagateConfig) -> dict[str, Any]:
    """Follow masks or key points through videos with each kind of features; of every checkpoint if
    asked.

    Returns:
        What `--json` prints; also in `out/adaptation.json`, where there is an `out`.

    Raises:
        InputError: the videos, the labels or the artifacts cannot be judged so.
    """
    if config.every_checkpoint:
        return probe_checkpoints(
            config.artifact,
            config.out,
            config.cluster,
            lambda place: judge_sequences(_alone(config, place))[0],
        )
    if config.out is None:
        return judge_sequences(config)[0]
    out, artifact = _claimed(config, config.out)
    result, shown = judge_sequences(config.model_copy(update={"artifact": artifact}))
    return _left(out, artifact, result, shown)


def compare_pairs(config: SimilarityConfig) -> dict[str, Any]:
    """Compare which texts each kind of features finds alike with the scores of pairs.

    Returns:
        What `--json` prints; also in `out/adaptation.json`, where there is an `out`.

    Raises:
        InputError: the pairs or the artifacts cannot be judged so.
    """
    if config.out is None:
        return judge_pairs(config)
    out, artifact = _claimed(config, config.out)
    return _left(out, artifact, judge_pairs(config.model_copy(update={"artifact": artifact})))


def compare_with_texts(config: ZeroShotConfig | RetrieveCaptionsConfig) -> dict[str, Any]:
    """Tell classes by their names, or let images and captions look for each other.

    Returns:
        What `--json` prints; also in `out/adaptation.json`, where there is an `out`.

    Raises:
        InputError: the samples, their texts or the artifacts cannot be judged so.
    """
    if config.out is None:
        return _compared(config)[0]
    out, artifact = _claimed(config, config.out)
    result, shown = _compared(config.model_copy(update={"artifact": artifact}))
    return _left(out, artifact, result, shown)


def _compared(
    config: ZeroShotConfig | RetrieveCaptionsConfig,
) -> tuple[dict[str, Any], list[Drawing]]:
    if isinstance(config, ZeroShotConfig):
        return judge_zero_shot(config), []
    return judge_captions(config)


def _claimed(config: FrozenConfig, out: str) -> tuple[str, str]:
    """Return where the result goes, and the artifact that is judged.

    Raises:
        InputError: the folder holds something else, or there is no artifact.
    """
    out = launch.absolute_out(out)
    check_writable("out", out)
    given = launch.user_uri("artifact", config.artifact)
    artifact = run_artifact.find(given, began=recorded(out, RESULT))
    _check_out(config.probe.name, artifact, out)
    return out, artifact


def _left(
    out: str, artifact: str, result: dict[str, Any], shown: Sequence[Drawing] = ()
) -> dict[str, Any]:
    """Leave a result in its folder, and return it."""
    told = {name: value for name, value in result.items() if name != "result"}
    leave(out, told, artifact=artifact, digest=result["artifact_digest"], shown=shown)
    return {**told, "result": result["result"]}


_Probe = TypeVar("_Probe", AdaptConfig, PropagateConfig)


def _alone(config: _Probe, artifact: str) -> _Probe:
    """Return the probe of one checkpoint's artifact."""
    one: dict[str, Any] = {"artifact": artifact, "every_checkpoint": False, "out": None}
    if config.check_leak:
        run = launch.user_uri("artifact", config.artifact)
        one["leak"] = leak_check.beside_run(config.leak, run)
    return config.model_copy(update=one)


def _judge(config: AdaptConfig, out: str | None = None) -> dict[str, Any]:
    masks = labelled_sets.task_of(config) == "mask"
    if masks and config.probe.name == "knn":
        return judge_patches(config)
    labelled = embed_labelled(config)
    if out is None or not config.probe.scratch:
        return judge(config.probe, labelled)
    with scratch_in(config, out, labelled) as scratch:
        return judge(config.probe, labelled, scratch)


def _check_out(probe: str, uri: str, out: str) -> None:
    """Refuse a folder that holds another adaptation, or something else.

    Raises:
        InputError: it does.
    """
    place = uris.join(out, RESULT)
    if not uris.exists(place):
        check_empty("adaptation", out, beside=(FOLDER,))
        return
    found = json.loads(uris.read_bytes(place))
    own = {"probe": probe, "artifact_digest": load_artifact(uri).digest}
    if different := differing({name: found.get(name) for name in own}, own):
        raise refusal("adaptation", out, different)


def complete(
    values: dict[str, Any],
) -> tuple[type[FrozenConfig | TrainedAdaptConfig], dict[str, Any]]:
    """Choose the configuration class by `probe.name`."""
    if "encoder" in values:
        raise InputError(
            "an adaptation takes artifact=URI: of other weights, python -m jobs.artifact"
            " encoder.name=NAME encoder.weights=URI out=URI makes one"
        )
    probe = values.get("probe") or {}
    name = probe.get("name") if isinstance(probe, dict) else None
    if name in _OTHERS:
        return _OTHERS[name], values
    trained = name in get_args(TrainedProbeConfig.model_fields["name"].annotation)
    return (TrainedAdaptConfig, with_defaults(values)) if trained else (AdaptConfig, values)


def run(config: FrozenConfig | TrainedAdaptConfig) -> dict[str, Any]:
    """Judge frozen features, or train."""
    if isinstance(config, SimilarityConfig):
        return compare_pairs(config)
    if isinstance(config, PropagateConfig):
        return propagate(config)
    if isinstance(config, ZeroShotConfig | RetrieveCaptionsConfig):
        return compare_with_texts(config)
    if isinstance(config, TrainedAdaptConfig):
        return adapt_by_training(config)
    return adapt(config)


if __name__ == "__main__":
    sys.exit(main("adapt", __doc__ or "", complete, run))
