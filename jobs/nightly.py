"""Run a night of retraining, for schedules: a cycle of jobs.retrain, which goes on with the newest
slot that was begun with the same settings and is not finished, before it begins the one given."""

import json
import os
import signal
import sys
import threading
from types import TracebackType
from typing import Any, ClassVar

from pydantic import Field

from augment.frozen import Frozen
from jobs.cluster import launch
from jobs.retrain import retrain, with_absolute_places
from jobs.retraining.cycle import Cycle, all_of
from jobs.retraining.retrain_sections import RetrainConfig
from jobs.retraining.retrain_sections import complete as complete_retrain
from jobs.setup.claims import differing
from jobs.setup.command_line import main
from jobs.training.run_config import for_method
from models.json_values import finite
from pipelines.registry.registered_model import RegisteredModel


class NightConfig(Frozen):
    """How long a night takes, and where it begins."""

    hours: float = Field(
        22,
        gt=0,
        description="h until it is told to stop, as by SIGTERM: the next night goes on with it",
    )
    go_on: bool = Field(
        True, description="go on with an unfinished slot; false: run the slot given, and no other"
    )


class NightlyConfig(RetrainConfig):
    """A cycle of retraining, and the night around it."""

    most_used: ClassVar[tuple[str, ...]] = (*RetrainConfig.most_used, "night.hours")

    night: NightConfig = NightConfig()


def complete(values: dict[str, Any]) -> tuple[type[NightlyConfig], dict[str, Any]]:
    """Choose the configuration class of `method.name`, as jobs.retrain does.

    Raises:
        InputError: no such method.
    """
    _, completed = complete_retrain(values)
    return for_method(NightlyConfig, completed["method"]["name"]), completed


def nightly(config: NightlyConfig) -> dict[str, Any]:
    """Run a night.

    Returns:
        What jobs.retrain returns; of a night whose time was up, `slot` and the decision
        `unfinished`.
    """
    slot = _slot(config) if config.night.go_on else config.slot
    values = config.model_dump(mode="json", exclude={"night"}) | {"slot": slot}
    cycle = for_method(RetrainConfig, config.method.name).model_validate(values)
    told: dict[str, Any] = {"exit_code": 1}
    with TimeLimit(config.night.hours * 3600) as limit:
        told = retrain(cycle)
    if not limit.is_up or not told.get("exit_code"):
        return told
    why = f"not finished after {config.night.hours:g} hours: the next night goes on with slot"
    return {"slot": slot, "decision": "unfinished", "result": f"{why} {slot}"}


def _slot(config: NightlyConfig) -> str:
    """Return the slot that a night goes on with, else its own."""
    model = RegisteredModel(launch.user_uri("registry", config.registry), config.name)
    config, out = with_absolute_places(config, model)
    cycle = unfinished(all_of(out), json.loads(json.dumps(finite(config.asked()))))
    if cycle is None:
        return config.slot
    print(f"going on with slot {cycle.slot}, begun {cycle.begun}", file=sys.stderr)
    return cycle.slot


def unfinished(cycles: list[Cycle], asked: dict[str, Any]) -> Cycle | None:
    """Return the newest unfinished cycle that no finished one has overtaken; None: there is none.

    One that was begun with other settings is left, with a line on stderr: it would be refused, and
    every night after it.

    Args:
        cycles: All of a model, the oldest slot first.
        asked: What is asked for now, as JSON has it.
    """
    ends = [index for index, cycle in enumerate(cycles) if cycle.decision is not None]
    newer = cycles[ends[-1] + 1 :] if ends else cycles
    for cycle in reversed(newer):
        if not (different := differing(cycle.asked, asked)):
            return cycle
        print(
            f"slot {cycle.slot} was begun with other settings, and is left unfinished:"
            f" {', '.join(different)}",
            file=sys.stderr,
        )
    return None


class TimeLimit:
    """Tells this process to stop once its time is up, as SIGTERM from outside does.

    A training writes its checkpoint then and returns; whatever else is interrupted ends here.

    Args:
        seconds: From now on.
    """

    def __init__(self, seconds: float) -> None:
        self.is_up = False
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True

    def __enter__(self) -> "TimeLimit":
        self._timer.start()
        return self

    def _ring(self) -> None:
        self.is_up = True
        print("the night's time is up", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._timer.cancel()
        # Ray's handler of SIGTERM, which is in force outside of training, exits.
        return self.is_up and isinstance(error, (KeyboardInterrupt, SystemExit))


if __name__ == "__main__":
    sys.exit(main("nightly", __doc__ or "", complete, nightly))
