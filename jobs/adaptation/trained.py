"""Adaptations that train: an encoder with a head learns from labels, the same from random weights
beside it and from another artifact where one is given, and all are judged once."""

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray.data

from jobs.adaptation import head_choice, judging, labelled_sets, leak_check, scoring
from jobs.adaptation.choosing import by_colours, check_validation
from jobs.adaptation.sample_pictures import some_samples
from jobs.adaptation.scoring import Scored
from jobs.adaptation.training_sections import TrainedAdaptConfig, check_task
from jobs.cluster import launch
from jobs.reporting.adaptation_page import leave
from jobs.setup import run_artifact, run_start
from jobs.setup.claims import check_writable, held
from jobs.setup.failures import InputError, RunError
from jobs.setup.inputs import check_comparable, load_artifact
from jobs.tracking.tracker import check_trackers
from jobs.training import checkpoints
from jobs.training.fit import fit
from jobs.training.planned_data import Samples
from jobs.training.run_config import PretrainConfig
from jobs.training.run_dir import OWN_FOLDERS, RunDir
from models import artifact
from models.artifact import Artifact
from models.method import MEDIA_WORDS
from models.scores import WORDS
from pipelines import schema
from pipelines.corpus.file_kinds import medium_of
from pipelines.embeddings import embed
from pipelines.labels import labelled_stream
from pipelines.labels.labelled_data import LabelledData
from pipelines.media.clips import Sampling
from pipelines.predictions import predictor
from pipelines.predictions.answers import (
    CONFUSION,
    FOUND_BOXES,
    PROBABILITIES,
    looked_at,
    whole_images,
)
from pipelines.samples.with_colours import COLOURS, WithColours
from pipelines.storage import uris
from pipelines.storage.lease import Held
from pipelines.stream.ingest import Ingest

_COMPARED = "compared_"
_TOLD = {"mask": CONFUSION, "boxes": FOUND_BOXES}


def adapt_by_training(config: TrainedAdaptConfig) -> dict[str, Any]:
    """Train, judge and describe an adaptation.

    Returns:
        What `--json` prints; also in `out/adaptation.json`.

    Raises:
        InputError: the labels, the artifact or the cluster cannot do it; nothing was started.
    """
    if config.probe.name == "detect":
        scoring.check_library()
    check_trackers(config.log)
    config = labelled_sets.with_absolute_places(config)
    out = launch.absolute_out(config.out)
    given = launch.user_uri("artifact", config.artifact)
    uri = run_artifact.find(given, began=run_artifact.begun_with(out))
    other = _other_of(config, out)
    labelled_sets.check_places(config)
    check_writable("out", out)
    start = _start_of(config, uri)
    corpus = leak_check.corpus_asked_for(config, start, uri)
    runs = _runs(config, _Source(uri, start), other, out)
    places = [run.source.uri for run in runs if not run.is_random]
    paths = (*places, out, *labelled_sets.places(config).values())
    with (
        held("adapt", out, *OWN_FOLDERS) as mine,
        launch.session(config.cluster, paths=paths) as session,
    ):
        data = _data_of(config)
        data, leaks = leak_check.find_leaks(data, start, corpus, config.leak)
        leaked: np.ndarray | None = None
        train = data.keep(data.learns)
        num_steps = config.steps(train.num_rows)
        judged = dict[str, _Judged]()
        usable: LabelledData | None = None
        for one in runs:
            run = one.config(config, train, num_steps)
            if not _train(run, train, num_steps, session, mine, one.prefix):
                return {"exit_code": 1, "steps": RunDir(one.out).committed_step(), "result": out}
            if usable is None:
                found, answers = _first_answers(config, run, data, session)
                usable = found.data
                leaked = leaks.among(found.kept, usable) if leaks else None
                told = usable.keep(_told(usable))
                test = usable.keep(usable.of("test"))
            else:
                answers = _answers(config, run, told, session)
            settings = config.probe.settings
            directory = RunDir(one.out, mine.fence)
            answers, about = head_choice.chosen_of(settings, directory, run, told, answers)
            scored = scoring.score(test, answers)
            about = about | scored.unleaked(leaked)
            judged[one.prefix] = _Judged(scored, about, head_choice.counted(run))
        assert usable is not None
        if COLOURS in found.values:
            colour = by_colours(usable, found.values[COLOURS])
            judged["colour_"] = _Judged(colour, colour.unleaked(leaked), {})
        shown = some_samples(config, out, usable)
    result = _result(config, judged, usable, out)
    if other is not None:
        result |= {"compared": other.uri, "compared_digest": other.artifact.digest}
    leave(out, result, artifact=uri, digest=start.digest, shown=shown)
    return result


def _start_of(config: TrainedAdaptConfig, uri: str) -> Artifact:
    """Load what is adapted.

    Raises:
        InputError: it sees neither images nor clips.
    """
    start = load_artifact(uri)
    if medium_of(media := start.encoder.media) != "pictures":
        raise InputError(
            f"probe.name={config.probe.name} trains on images and clips, and artifact"
            f" {config.artifact} is an encoder of {MEDIA_WORDS[media]}: take probe.name=linear or"
            " few_label"
        )
    return start


def train_from_scratch(
    config: TrainedAdaptConfig,
    start: Artifact,
    train: LabelledData,
    test: LabelledData,
    place: str,
    session: launch.Session,
    mine: Held,
) -> np.ndarray:
    """Train an artifact's network from random weights, or go on, and tell readable test samples.

    Args:
        config: Of an adaptation, with absolute URIs.
        start: The artifact.
        train: What is learnt from, all of it.
        test: What is told.
        place: The run directory.
        session: Where it runs.
        mine: The lease on the folder around it.

    Returns:
        Probabilities of the test samples, (N, C).

    Raises:
        RunError: a signal stopped it.
    """
    num_steps = config.steps(train.num_rows)
    run = config.run_of(start, train, num_steps=num_steps, weights=None, out=place)
    if not _train(run, train, num_steps, session, mine, "scratch_"):
        raise RunError(f"stopped in {place}: give the same command to go on")
    return _answers(config, run, test, session)


@dataclass(frozen=True, eq=False)
class _Source:
    """An artifact that is adapted, and where it lies."""

    uri: str
    artifact: Artifact


@dataclass(frozen=True, eq=False)
class _Run:
    """One training of an adaptation.

    Attributes:
        prefix: Of the names of its scores.
        source: Whose network it trains.
        is_random: Whether that begins with random weights.
        out: Its directory.
    """

    prefix: str
    source: _Source
    is_random: bool
    out: str

    def config(
        self, config: TrainedAdaptConfig, train: LabelledData, num_steps: int
    ) -> PretrainConfig:
        """Return what is trained."""
        return config.run_of(
            self.source.artifact,
            train,
            num_steps=num_steps,
            weights=None if self.is_random else self.source.uri,
            out=self.out,
        )


def _runs(config: TrainedAdaptConfig, own: _Source, other: _Source | None, out: str) -> list[_Run]:
    """Return what is trained, in turn.

    Raises:
        InputError: the other artifact cannot be compared with the own one.
    """
    runs = [_Run("", own, False, out)]
    if config.probe.baseline:
        name = "untrained" if config.probe.what_learns() == "head" else "scratch"
        runs.append(_Run(f"{name}_", own, True, uris.join(out, name)))
    if other is not None and config.compare is not None:
        check_comparable(own.artifact, other.artifact, config.artifact, config.compare)
        runs.append(_Run(_COMPARED, other, False, uris.join(out, "compare")))
    return runs


def _other_of(config: TrainedAdaptConfig, out: str) -> _Source | None:
    """Find the artifact to compare with; None where none is given.

    Raises:
        InputError: it is not there.
    """
    if config.compare is None:
        return None
    given = launch.user_uri("compare", config.compare)
    began = run_artifact.begun_with(uris.join(out, "compare"))
    uri = run_artifact.find(given, key="compare", began=began)
    return _Source(uri, load_artifact(uri, key="compare"))


def _data_of(config: TrainedAdaptConfig) -> LabelledData:
    """Read the labelled samples; where a head is chosen by validation, that teaches nothing.

    Raises:
        InputError: the probe cannot learn from them, or cannot choose by them.
    """
    data = labelled_sets.read_sets(config)
    check_task(config, data)
    if len(config.probe.settings) < 2:
        return data
    check_validation(data, "probe.lr_scales or probe.weight_decays")
    return replace(data, chooses=True)


def _told(data: LabelledData) -> np.ndarray:
    """Tell of which samples anything is told, (N,) bool: those by which is judged or chosen."""
    return data.of("val", "test") if data.chooses else data.of("test")


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
    if done >= num_steps and head_choice.has_ended(run, done):
        run.join_metrics()
        return True
    what = prefix.removesuffix("_") or "pretrained"
    if resumed and done:
        print(f"resuming {run.uri} from step {done} of {num_steps}", file=sys.stderr)
    print(
        f"{what}: {train.num_rows} samples, {num_steps} steps of {config.global_batch_size}",
        file=sys.stderr,
    )
    samples = Samples.of_labelled(train, run.ledger(), config)
    finished = fit(config, run, samples, num_steps, session, mine)
    run.join_metrics()
    return finished


@dataclass(frozen=True, eq=False)
class _Judged:
    """What came of a run.

    Attributes:
        scored: How its answers on the test samples were.
        about: What else is told of it, for the result, by name.
        counts: Values that learnt and that did not.
    """

    scored: Scored
    about: dict[str, Any]
    counts: dict[str, int]


def _first_answers(
    config: TrainedAdaptConfig, run: PretrainConfig, data: LabelledData, session: launch.Session
) -> tuple[judging.Found, np.ndarray]:
    """Read every sample, training too, which tells copies among the test samples.

    Returns:
        The samples that are judged, and what is told of those of `_told`.
    """
    name = _TOLD.get(data.task, PROBABILITIES)
    rows = _told(data)
    beside = (COLOURS,) if data.task in ("class", "classes") else ()
    told = _predicted(config, run, data.keep(rows), session, beside)
    others = labelled_stream.blocks(_work(config, run, data.keep(~rows), beside))
    found = judging.read_apart(told, others, name, rows, data, config, beside)
    return found, found.values[name]


def _answers(
    config: TrainedAdaptConfig, run: PretrainConfig, data: LabelledData, session: launch.Session
) -> np.ndarray:
    """Predict samples that are known to be readable."""
    name = _TOLD.get(data.task, PROBABILITIES)
    keys = (schema.ROW, schema.VALID, schema.CONTENT)
    columns = judging.collected(_predicted(config, run, data, session), (name, *keys))
    values, _, _ = embed.averaged(columns, (name,), data.num_rows)
    return values[name]


def _predicted(
    config: TrainedAdaptConfig,
    run: PretrainConfig,
    data: LabelledData,
    session: launch.Session,
    beside: tuple[str, ...] = (),
) -> ray.data.Dataset:
    """Stream what a run's artifact tells of samples."""
    network = predictor.Predictor(_place(run), session.placed)
    blocks = labelled_stream.blocks(_work(config, run, data, beside))
    return predictor.predict(blocks, network, num_actors=session.num_workers)


def _place(run: PretrainConfig) -> str:
    """Return the place of the weights that a run has ended with."""
    assert run.num_steps is not None
    return head_choice.told_by(RunDir(run.out), run.num_steps)


def _work(
    config: TrainedAdaptConfig,
    run: PretrainConfig,
    data: LabelledData,
    beside: tuple[str, ...] = (),
) -> Ingest:
    """Say how a run's artifact is shown samples, perhaps with their colours beside them."""
    adapted = artifact.load(_place(run))
    shape = looked_at(adapted)
    if data.task == "mask":
        shape = whole_images(adapted, masks=True)
    return labelled_stream.work_of(
        data,
        WithColours(shape) if COLOURS in beside else shape,
        run.source.limits(),
        run="adapt",
        sampling=Sampling.seen_by(adapted, config.clip.per_video or 1),
        content=True,
    )


def _result(
    config: TrainedAdaptConfig, judged: dict[str, _Judged], usable: LabelledData, out: str
) -> dict[str, Any]:
    account = usable.account
    place = uris.join(out, run_artifact.FOLDER)
    result: dict[str, Any] = {"probe": config.probe.name}
    for prefix, one in judged.items():
        told = one.scored.scores | one.about
        result |= {f"{prefix}{name}": value for name, value in told.items()}
    own = judged[""]
    lines = [
        f"{prefix.removesuffix('_') or 'pretrained'} {one.scored.line}"
        for prefix, one in judged.items()
    ]
    measure = WORDS[own.scored.measure]
    result |= {"num_train": int(usable.learns.sum()), "num_test": int(usable.of("test").sum())}
    result |= account | {"parameters": own.counts}
    result |= {"artifact": place, "artifact_digest": artifact.load(place).digest}
    number = account["num_classes"]
    line = f"{config.probe.name} {measure} of {number} classes: {', '.join(lines)}"
    if _COMPARED in judged:
        ahead = own.scored.ahead_of(judged[_COMPARED].scored)
        result |= ahead
        low, high = ahead["difference_ci95"]
        line += f"; ahead of compared by {ahead['difference']:+.1%} [{low:+.1%}, {high:+.1%}]"
    return result | {"result": line}
