"""Run one cycle of retraining: list the corpus, decide, train on from the champion, judge, promote
or keep, embed what changed, and tell.

The same slot does its work once: a command that was stopped goes on, one of a finished slot says
what came of it, and one of a slot that a newer one has overtaken does nothing.
"""

import shlex
import sys
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from jobs.cluster import launch
from jobs.cluster.gauges import CycleGauges
from jobs.export import export
from jobs.exporting.export_sections import ExportConfig
from jobs.registering.lineage import lineage_of, metrics_of
from jobs.registering.registry_config import CANDIDATE
from jobs.retraining import corpus as corpora
from jobs.retraining import cycle_page, history_page
from jobs.retraining.corpus import LINEAGE
from jobs.retraining.cycle import Cycle, Told, all_of, open_cycle, order_of
from jobs.retraining.deciding import decide
from jobs.retraining.gate import judge_candidate
from jobs.retraining.looks import held_out
from jobs.retraining.retrain_sections import LabelledSetsConfig, RetrainConfig, complete
from jobs.retraining.training import Stopped, train
from jobs.setup.claims import check_writable, held
from jobs.setup.command_line import main
from jobs.setup.failures import InputError
from jobs.setup.help_page import command_of
from pipelines.registry import model_versions, moves
from pipelines.registry.model_versions import Version
from pipelines.registry.registered_model import RegisteredModel
from pipelines.registry.signature import Signature
from pipelines.retraining.mixture import Ages
from pipelines.storage import uris
from pipelines.storage.lease import Held

_C = TypeVar("_C", bound=RetrainConfig)
FOLDER = "retraining"
EMBEDDINGS = "embeddings"
STEPS = ("index", "decide", "train", "gate", "promote", "export", "page")
PROMOTED = "promoted"
KEPT = "kept"
STOPPED = "stopped"


def retrain(config: RetrainConfig) -> dict[str, Any]:
    """Run a cycle, or go on with it.

    Returns:
        `slot`, `decision` (promoted, kept, stopped or superseded; of a dry run what it would be),
        `why`, `version` (the new one), `champion` (which is in use now), `steps` and `page`.

    Raises:
        InputError: the slot was begun with other settings, or what a job of the cycle raises.
    """
    if config.medium != "pictures":
        raise InputError(
            f"method.name {config.method.name} learns from {config.medium}, and a cycle judges"
            " encoders of images and clips: train on by jobs.pretrain with encoder.weights=ARTIFACT"
        )
    registry = launch.user_uri("registry", config.registry)
    check_writable("registry", registry)
    model = RegisteredModel(registry, config.name)
    config, out = with_absolute_places(config, model)
    source = config.source.uri
    launch.check_reachable("source.uri", source)
    for key, uri in _labelled_places(config).items():  # which the gate reads hours later
        launch.check_reachable(key, uri)
    with held("retrain", out) as mine:
        if not config.retrain.dry_run:
            model.prepare()
        cycle = open_cycle(out, config.slot, config.asked())
        if cycle.decision is not None:
            print(f"slot {cycle.slot} is finished: nothing is done again", file=sys.stderr)
            return _told(cycle, model, config)
        if (newer := _overtaken(out, cycle)) is not None:
            why = f"slot {newer} is newer, and finished"
            return _told(cycle, model, config, decision="superseded", why=(why,))
        with launch.session(config.cluster, paths=(out, source, registry)) as session:
            gauges = CycleGauges(model.name)
            job = _Job(config, cycle, model, out, mine, session, gauges)
            try:
                return job.run()
            except Stopped:
                print("stopped; the same command line goes on from there", file=sys.stderr)
                return {"exit_code": 1, "slot": cycle.slot, "result": cycle.uri}


def with_absolute_places(config: _C, model: RegisteredModel) -> tuple[_C, str]:
    """Make the places of a cycle absolute, as its record has them.

    Args:
        config: As it was given.
        model: Beside which the cycles lie where `out` is not given.

    Returns:
        It, and its `out`.

    Raises:
        InputError: one is of a scheme that is not read.
    """
    out = launch.absolute_out(config.out or uris.join(model.uri, FOLDER))
    source = launch.user_uri("source.uri", config.source.uri)
    placed: dict[str, object] = {
        "source": config.source.model_copy(update={"uri": source}),
        "out": out,
    }
    if config.labelled is not None:
        sets = config.labelled.model_dump()
        for key, uri in _labelled_places(config).items():
            sets[key.split(".")[1]]["uri"] = launch.user_uri(key, uri)
        placed["labelled"] = LabelledSetsConfig.model_validate(sets)
    return config.model_copy(update=placed), out


def _labelled_places(config: RetrainConfig) -> dict[str, str]:
    """Return where labelled sets lie, by key."""
    if config.labelled is None:
        return {}
    uris_of = {"train": config.labelled.train.uri, "test": config.labelled.test.uri}
    return {f"labelled.{name}.uri": uri for name, uri in uris_of.items() if uri is not None}


def _overtaken(out: str, cycle: Cycle) -> str | None:
    """Return the newest finished slot after this one; None: there is none."""
    own = order_of(cycle.slot)
    done = [each.slot for each in all_of(out) if each.decision is not None]
    newer = [slot for slot in done if order_of(slot) > own]
    return newer[-1] if newer else None


def _told(cycle: Cycle, model: RegisteredModel, config: RetrainConfig, **other: Any) -> Told:
    told = {"decision": cycle.decision, "why": cycle.why} | other
    standing = moves.standings_of(model).get(config.alias)
    why = "; ".join(told["why"])
    page = cycle.path(cycle_page.NAME)
    return {
        "slot": cycle.slot,
        "decision": told["decision"],
        "why": list(told["why"]),
        "version": cycle.steps.get("promote", {}).get("version"),
        "champion": standing.version if standing else None,
        "steps": cycle.steps,
        "page": page if "page" in cycle.steps else None,
        "result": f"{told['decision']}: {why}\n{page if 'page' in cycle.steps else cycle.uri}",
    }


@dataclass(frozen=True)
class _Job:
    config: RetrainConfig
    cycle: Cycle
    model: RegisteredModel
    out: str
    mine: Held
    session: launch.Session
    gauges: CycleGauges

    def run(self) -> Told:
        index = self._step("index", self._list)
        self.gauges.show(new_samples=index["new"], in_use=index["champion"])
        ages = corpora.reopen(index)
        champion = self._champion(index)
        decided = self._step("decide", lambda: self._decide(ages, champion, index.get("unknown")))
        if self.config.retrain.dry_run:
            would = "would train" if decided["goes"] else STOPPED
            dry = _told(self.cycle, self.model, self.config, decision=would, why=(decided["why"],))
            return dry | {"result": f"{would}: {decided['why']}"}
        if not decided["goes"]:
            return self._end(STOPPED, (decided["why"],), ages)
        trained = self._step("train", lambda: train(self.config, self.cycle, ages, champion))
        if trained["artifact"] is None:
            return self._end(KEPT, (f"training failed: {trained['failure']}",), ages)
        judged = self._step("gate", lambda: self._judge(ages, champion, trained))
        moved = self._step("promote", lambda: self._promote(index, champion, trained, judged))
        self.gauges.show(in_use=moved["in_use"])
        if self.config.retrain.export and moved["in_use"] is not None:
            self._step("export", lambda: self._export(ages, moved["in_use"]))
        return self._end(moved["decision"], tuple(moved["why"]), ages)

    def _step(self, name: str, do: Any) -> Told:
        self.mine.check()
        self.gauges.show(step=1 + STEPS.index(name))
        if self.config.retrain.dry_run:
            return self.cycle.steps.get(name) or do()  # nothing is recorded
        if name not in self.cycle.steps:
            print(f"slot {self.cycle.slot}: {name}", file=sys.stderr)
        return self.cycle.step(name, self.mine.fence, do)

    def _list(self) -> Told:
        standing = moves.standings_of(self.model).get(self.config.alias)
        champion = model_versions.read(self.model, standing.version) if standing else None
        return corpora.list_anew(self.config, self.config.source.uri, self.out, champion)

    def _champion(self, index: Told) -> Version | None:
        """Return the version that was in use when the cycle began."""
        number = index["champion"]
        return model_versions.read(self.model, number) if number is not None else None

    def _decide(self, ages: Ages, champion: Version | None, unknown: str | None) -> Told:
        place = champion.artifact if champion else None
        decision = decide(self.config, ages, place, self.session, unknown=unknown)
        print(decision.why, file=sys.stderr)
        return decision.as_dict()

    def _judge(self, ages: Ages, champion: Version | None, trained: Told) -> Told:
        verdict = judge_candidate(
            self.config,
            ages,
            held_out(self.config, ages),
            candidate=trained["artifact"],
            champion=champion.artifact if champion else None,
            last_line=trained["last"],
            session=self.session,
        )
        for line in verdict.why:
            print(line, file=sys.stderr)
        return verdict.as_dict()

    def _promote(self, index: Told, champion: Version | None, trained: Told, judged: Told) -> Told:
        """Register the new encoder, and move the aliases: the champion's where the gate lets it
        pass."""
        own = {
            "slot": self.cycle.slot,
            "manifest": index["manifest"],
            "version": index["version"],
            "trunk": trained["trunk"],
        }
        parent = str(champion.number) if champion else None
        place = trained["artifact"]
        version, _ = model_versions.register(
            self.model,
            place,
            lineage=lineage_of(place, self.model, parent) | {LINEAGE: own},
            metrics=metrics_of(place, ()) | {"gate": judged},
            by=self._signed(),
        )
        reason = f"slot {self.cycle.slot}: {'; '.join(judged['why'])}"
        self.mine.fence.check()
        if not self._was_moved(CANDIDATE, version.number):
            moves.promote(self.model, CANDIDATE, version.number, by=self._signed(), reason=reason)
        before = champion.number if champion else 0
        told: Told = {"version": version.number, "decision": KEPT, "why": judged["why"]}
        if not judged["passed"]:
            return told | {"in_use": before or None}
        alias = self.config.alias
        refused = None
        if not self._was_moved(alias, version.number):
            try:
                by = self._signed()
                moves.promote(
                    self.model, alias, version.number, by=by, reason=reason, expect=before
                )
            except ValueError as error:  # somebody moved it since the cycle began
                refused = error
        now = self._in_use()
        if now == version.number:
            return told | {"decision": PROMOTED, "in_use": now}
        if refused is not None and now == before:  # moved there and back at this moment
            raise refused
        left = version.number if refused is None else before
        why = f"{alias} was moved from version {left} to {now} meanwhile"
        return told | {"why": [why], "in_use": now or None}

    def _in_use(self) -> int:
        """Return the version in use now; 0: none."""
        standing = moves.standings_of(self.model).get(self.config.alias)
        return standing.version if standing else 0

    def _was_moved(self, alias: str, number: int) -> bool:
        """Tell whether an alias ever came to a version: a command that was killed may have moved
        it, and whoever moved it away since is not to be overruled."""
        history = moves.history(self.model)
        return any(move.alias == alias and move.after == number for move in history)

    def _export(self, ages: Ages, number: int) -> Told:
        """Embed with the version in use what its table lacks."""
        version = model_versions.read(self.model, number)
        place = uris.join(self.out, EMBEDDINGS, f"v{number:07d}")
        corpus = {"uri": ages.manifest.uri, "version": ages.manifest.version}
        source = self.config.source.model_copy(update=corpus)
        asked = ExportConfig(
            artifact=(version.artifact,), source=source, out=place, cluster=self.config.cluster
        )
        told = {name: value for name, value in export(asked).items() if name != "result"}
        return {**told, "embeddings": place, "by_version": number}

    def _end(self, decision: str, why: tuple[str, ...], ages: Ages) -> Told:
        """Draw the page and that of all cycles, then record how the cycle ended: with the record
        nothing is left to do."""
        ended = replace(self.cycle, decision=decision, why=why)
        self._step("page", lambda: cycle_page.write(ended, ages.manifest, self.model))
        self.mine.fence.check()
        history_page.write(self.out, self.model, self.config.alias, ended)
        ended.write(self.mine.fence)
        return _told(ended, self.model, self.config)

    def _signed(self) -> Signature:
        words = [f"registry={self.config.registry}", f"name={self.config.name}"]
        command = shlex.join([*words, f"slot={self.cycle.slot}"])
        return Signature.now(f"{command_of('retrain')} {command}")


if __name__ == "__main__":
    sys.exit(main("retrain", __doc__ or "", complete, retrain))
