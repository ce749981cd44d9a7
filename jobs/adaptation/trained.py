"""Adaptations that train: an encoder with a head learns from labels, the same from random weights
beside it, and both are judged once."""

import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.data

from jobs.adaptation import judging, labelled_sets
from jobs.adaptation.telling import NAMES_KEPT
from jobs.adaptation.training_sections import TrainedAdaptConfig
from jobs.cluster import launch
from jobs.setup import run_artifact, run_start
from jobs.setup.claims import check_writable, held
from jobs.setup.failures import InputError
from jobs.setup.inputs import load_artifact
from jobs.training import checkpoints
from jobs.training.fit import fit
from jobs.training.planned_data import Samples
from jobs.training.run_config import PretrainConfig, build
from jobs.training.run_dir import OWN_FOLDERS, RunDir
from models import artifact
from models.json_values import finite
from models.scores import average_precision, judge_classes, judge_masks
from pipelines import schema
from pipelines.embeddings import embed, predict
from pipelines.labels import labelled_stream
from pipelines.labels.labelled_data import LabelledData
from pipelines.media.clips import Sampling
from pipelines.storage import uris
from pipelines.storage.lease import Held
from pipelines.stream import shapes

RESULT = "adaptation.json"
_NEEDS = {"finetune": ("class", "classes"), "attentive": ("class", "classes"), "segment": ("mask",)}
_GIVE = {
    "class": "a folder per class, or a table of uri,label",
    "mask": "masks.uri, a folder of PNG masks beside the images",
}


def adapt_by_training(config: TrainedAdaptConfig) -> dict[str, Any]:
    """Train, judge and describe an adaptation.

    Returns:
        What `--json` prints; also in `out/adaptation.json`.

    Raises:
        InputError: the labels, the artifact or the cluster cannot do it; nothing was started.
    """
    config = labelled_sets.with_absolute_places(config)
    uri = run_artifact.find(launch.user_uri("artifact", config.artifact))
    out = launch.absolute_out(config.out)
    labelled_sets.check_places(config)
    check_writable("out", out)
    start = load_artifact(uri)
    paths = (uri, out, *labelled_sets.places(config).values())
    with (
        held("adapt", out, *OWN_FOLDERS) as mine,
        launch.session(config.cluster, paths=paths) as session,
    ):
        data = labelled_sets.read_sets(config)
        _check_task(config, data)
        train = data.keep(data.learns)
        num_steps = config.steps(train.num_rows)
        judged = dict[str, _Judged]()
        usable: LabelledData | None = None
        for prefix, weights, place in _runs(config, uri, out):
            run = config.run_of(start, train, num_steps=num_steps, weights=weights, out=place)
            if not _train(run, train, num_steps, session, mine, prefix):
                return {"exit_code": 1, "steps": RunDir(place).committed_step(), "result": out}
            if usable is None:
                usable, answers = _first_answers(config, run, data, session)
            else:
                answers = _answers(config, run, usable.keep(usable.of("test")), session)
            scores, line = _scores(usable, answers)
            judged[prefix] = _Judged(scores, line, _counted(run))
    assert usable is not None
    result = _result(config, judged, usable.account, out)
    uris.write_bytes(uris.join(out, RESULT), json.dumps(finite(result), indent=1).encode())
    return result


def _runs(config: TrainedAdaptConfig, uri: str, out: str) -> list[tuple[str, str | None, str]]:
    """Return what the scores of each run are called, what it starts from, and where it lies."""
    runs: list[tuple[str, str | None, str]] = [("", uri, out)]
    if config.probe.baseline:
        name = "untrained" if config.probe.what_learns() == "head" else "scratch"
        runs.append((f"{name}_", None, uris.join(out, name)))
    return runs


def _check_task(config: TrainedAdaptConfig, data: LabelledData) -> None:
    """Refuse labels that the probe cannot learn from.

    Raises:
        InputError: with what it needs.
    """
    needs = _NEEDS[config.probe.name]
    if data.task not in needs:
        raise InputError(
            f"probe.name {config.probe.name} learns from {needs[0]} labels, and train.uri"
            f" {config.train.uri} gives {data.task}: give {_GIVE[needs[0]]}"
        )


def _train(
    config: PretrainConfig,
    train: LabelledData,
    num_steps: int,
    session: launch.Session,
    mine: Held,
    prefix: str,
) -> bool:
    """Train or resume a run to its last step; False where a signal stopped it before."""
    run = RunDir(config.out, mine.fence)
    start = run_start.prepare(config, run)
    resumed = run.check(config)
    checkpoints.mend(run.path(checkpoints.FOLDER))
    done = run.committed_step()
    if start is not None:
        run_start.keep(start, config, run)
    run.write_config(config)
    if done >= num_steps and run.has_artifact_of(done):
        return True
    what = prefix.removesuffix("_") or "pretrained"
    if resumed and done:
        print(f"resuming {run.uri} from step {done} of {num_steps}", file=sys.stderr)
    print(
        f"{what}: {train.num_rows} samples, {num_steps} steps of {config.global_batch_size}",
        file=sys.stderr,
    )
    samples = Samples.of_labelled(train, run.ledger(), config)
    return fit(config, run, samples, num_steps, session, mine)


@dataclass(frozen=True)
class _Judged:
    """What came of a run.

    Attributes:
        scores: For the result, by name.
        line: For people.
        counts: Values that learnt and that did not.
    """

    scores: dict[str, Any]
    line: str
    counts: dict[str, int]


def _first_answers(
    config: TrainedAdaptConfig, run: PretrainConfig, data: LabelledData, session: launch.Session
) -> tuple[LabelledData, np.ndarray]:
    """Predict every sample, training too: that tells copies among the test samples.

    Returns:
        The samples that are judged, and what is told of those of the test set.
    """
    name = _told_of(data)
    found = judging.read(_predicted(config, run, data, session), (name,), data, config)
    return found.data, found.values[name][found.data.of("test")]


def _answers(
    config: TrainedAdaptConfig, run: PretrainConfig, data: LabelledData, session: launch.Session
) -> np.ndarray:
    """Predict samples that are known to be readable."""
    name = _told_of(data)
    keys = (schema.ROW, schema.VALID, schema.CONTENT)
    columns = judging.collected(_predicted(config, run, data, session), (name, *keys))
    values, _, _ = embed.averaged(columns, (name,), data.num_rows)
    return values[name]


def _told_of(data: LabelledData) -> str:
    return predict.CONFUSION if data.task == "mask" else predict.PROBABILITIES


def _predicted(
    config: TrainedAdaptConfig, run: PretrainConfig, data: LabelledData, session: launch.Session
) -> ray.data.Dataset:
    """Stream what a run's artifact tells of samples."""
    place = RunDir(run.out).path(run_artifact.FOLDER)
    adapted = artifact.load(place)
    shape: shapes.Shape = shapes.Centre(adapted.image_size)
    if data.task == "mask":
        shape = shapes.Fitted(adapted.image_size, masks=True, ignore=data.ignore)
    work = labelled_stream.work_of(
        data,
        shape,
        run.source.limits(),
        run="adapt",
        sampling=Sampling(per_video=config.clip.per_video or 1),
        content=True,
    )
    predictor = predict.Predictor(place, session.placed)
    return predict.predict(labelled_stream.blocks(work), predictor, num_actors=session.num_workers)


def _scores(data: LabelledData, answers: np.ndarray) -> tuple[dict[str, Any], str]:
    """Score what was told of the test samples, and say it in a line."""
    test = data.of("test")
    names = data.classes[:NAMES_KEPT]
    if data.task == "mask":
        size = data.num_classes
        masks = judge_masks(answers.reshape(-1, size, size).astype(np.int64))
        per_class = dict(zip(names, masks.per_class.tolist(), strict=False))
        found = {"miou": masks.miou, "ci95": list(masks.ci95), "pixel_top1": masks.pixel_top1}
        return found | {"per_class": per_class}, _share(masks.miou, masks.ci95)
    if data.task == "classes":
        return _scores_of_several(answers, data.label_hot[test], names)
    one = judge_classes(answers, data.labels[test])
    scores = {
        "top1": one.top1,
        "ci95": list(one.ci95),
        "per_class": dict(zip(names, one.per_class.tolist(), strict=False)),
        "confusion": one.confusion[:NAMES_KEPT, :NAMES_KEPT].tolist(),
        "calibration_error": one.calibration_error,
        "nll": one.nll,
    }
    return scores, _share(one.top1, one.ci95)


def _scores_of_several(
    answers: np.ndarray, hot: np.ndarray, names: tuple[str, ...]
) -> tuple[dict[str, Any], str]:
    per_class = [average_precision(answers[:, i], hot[:, i]) for i in range(hot.shape[1])]
    mean = float(np.nanmean(per_class))
    scores = {"map": mean, "per_class": dict(zip(names, per_class, strict=False))}
    return scores, f"{mean:.1%}"


def _share(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"


def _counted(config: PretrainConfig) -> dict[str, int]:
    """Count the values that learn and those that do not; a running average is neither."""
    method = build(config, start=False)
    parts = [
        (name, parameter)
        for name, parameter in method.named_parameters()
        if not name.startswith("average.")
    ]
    trained = sum(parameter.numel() for _, parameter in parts if parameter.requires_grad)
    return {"trained": trained, "frozen": sum(one.numel() for _, one in parts) - trained}


def _result(
    config: TrainedAdaptConfig, judged: dict[str, _Judged], account: dict[str, Any], out: str
) -> dict[str, Any]:
    place = uris.join(out, run_artifact.FOLDER)
    result: dict[str, Any] = {"probe": config.probe.name}
    for prefix, one in judged.items():
        result |= {f"{prefix}{name}": value for name, value in one.scores.items()}
    own = judged[""]
    lines = [f"{prefix.removesuffix('_') or 'pretrained'} {j.line}" for prefix, j in judged.items()]
    measure = {"segment": "mIoU"}.get(config.probe.name, "top-1")
    if "map" in own.scores:
        measure = "mAP"
    result |= account | {"parameters": own.counts}
    result |= {"artifact": place, "artifact_digest": artifact.load(place).digest}
    number = account["num_classes"]
    line = f"{config.probe.name} {measure} of {number} classes: {', '.join(lines)}"
    return result | {"result": line}
