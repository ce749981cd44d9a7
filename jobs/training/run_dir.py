"""The run directory: the interface between jobs, local or in object storage.

config.yaml env.json start/ tokenizer.json metrics/ metrics.jsonl checkpoints/ series/ rollback.json
artifact/ heads/ quarantine/ samples/ manifest/ tensorboard/ wandb/ report/
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from jobs.cluster.cores import own_cores
from jobs.setup import claims
from jobs.setup.command_line import to_yaml
from jobs.setup.failures import InputError
from jobs.setup.value_range import recorded
from jobs.training import checkpoints
from jobs.training.run_config import PretrainConfig, load_pretrain
from pipelines.storage import step_log, uris
from pipelines.storage.lease import Fence
from pipelines.stream.ledger import Ledger

_ROOT = Path(__file__).resolve().parents[2]
MANIFEST = "manifest"
START = "start"
TOKENIZER = "tokenizer.json"
STEPLESS = (  # what a run writes before its first step
    *("config.yaml", "env.json", "metrics", "metrics.jsonl", "quarantine", "samples"),
    *("tensorboard", "wandb", checkpoints.FOLDER, "rollback.json", START, TOKENIZER),
    checkpoints.SERIES,
)
# What only training writes, and the first artifact.
OWN_FOLDERS = ("metrics", "quarantine", "samples", "tensorboard", "artifact", "heads")
PACKAGES = (
    "afield",
    "ray",
    "torch",
    "torchvision",
    "kornia",
    "timm",
    "pyarrow",
    "fsspec",
    "s3fs",
    "simplejpeg",
    "pillow",
    "av",
)


@dataclass(frozen=True)
class RunDir:
    """Names of what lies in a run directory.

    Attributes:
        uri: The directory, absolute.
        fence: Of the lease on it, for whoever writes there; None: for those who only read.
    """

    uri: str
    fence: Fence | None = None

    def path(self, *names: str) -> str:
        """Return the URI of something in the directory."""
        return uris.join(self.uri, *names)

    def check_held(self) -> None:
        """Make sure, before something is written, that the directory is still this job's.

        Raises:
            Lost: another job has taken it over.
        """
        if self.fence:
            self.fence.check()

    def check(self, config: PretrainConfig) -> bool:
        """Tell whether the directory holds this experiment already; False where it is new.

        Raises:
            InputError: it holds another experiment (with the differing keys), or something else.
        """
        before = self.read_config()
        if before is None:
            claims.check_empty("run directory", self.uri, beside=(MANIFEST,))
            return False
        if not (differing := claims.differing(before.experiment(), config.experiment())):
            return True
        if self.has_steps():
            raise claims.refusal("experiment", self.uri, differing)
        print(f"out {self.uri} held an experiment that had made no step: replaced", file=sys.stderr)
        self._clear(keep_manifest=before.source.uri == config.source.uri)
        return False

    def tokenizer(self) -> str | None:
        """Read the tokenizer that the run has learnt; None where it has none."""
        place = self.path(TOKENIZER)
        return uris.read_bytes(place).decode() if uris.exists(place) else None

    def has_steps(self) -> bool:
        """Tell whether anything was trained: weights or a line of the log are there."""
        if self.committed_step() or self.has_artifact():
            return True
        return any(part.has_lines() for part in step_log.parts(self._log))

    def _clear(self, *, keep_manifest: bool) -> None:
        """Delete what a run has written that made no step."""
        for name in STEPLESS:
            uris.remove(self.path(name))
        if not keep_manifest:
            uris.remove(self.path(MANIFEST))

    def read_config(self) -> PretrainConfig | None:
        """Read the configuration of the run, None where there is none."""
        if not uris.exists(self.path("config.yaml")):
            return None
        try:
            values = yaml.safe_load(uris.read_bytes(self.path("config.yaml")))
            if isinstance(values, dict):
                values.pop("artifact", None)  # of earlier versions: which weights ship
            return load_pretrain(values)
        except (yaml.YAMLError, ValueError) as error:
            raise InputError(
                f"{self.path('config.yaml')} cannot be read: {str(error).splitlines()[0]}"
            ) from None

    def write_config(self, config: PretrainConfig) -> None:
        """Record what runs, and on what."""
        self.check_held()
        uris.write_bytes(self.path("config.yaml"), to_yaml(config).encode())
        uris.write_bytes(self.path("env.json"), json.dumps(environment(), indent=2).encode())

    def commit(self) -> str | None:
        """Read the commit of the code that last ran; None where it is not known."""
        commit: str | None = claims.recorded(self.uri, "env.json", "commit")
        return commit

    def committed_step(self) -> int:
        """Return the optimiser step of the newest committed checkpoint, 0 where there is none."""
        return checkpoints.committed_step(self.uri)

    def has_artifact(self) -> bool:
        """Tell whether the encoder was written; its description comes last."""
        return uris.exists(self.path("artifact", "artifact.json"))

    def has_artifact_of(self, step: int, folder: str = "artifact") -> bool:
        """Tell whether the artifact in a folder is that of the weights after a step, not of a
        shorter run before."""
        if not uris.exists(self.path(folder, "artifact.json")):
            return False
        made = json.loads(uris.read_bytes(self.path(folder, "artifact.json")))["provenance"]
        # Earlier versions also shipped weights of a step before the last one.
        return bool(made.get("trained_steps", made.get("num_steps", step)) == step)

    def ledger(self) -> Ledger:
        """Read what the newest committed checkpoint's weights have seen; nothing where there is
        none."""
        return checkpoints.ledger(self.path(checkpoints.FOLDER))

    def rollback(self) -> dict[str, Any] | None:
        """Read for which collapse the run went back: `step`, `reason`; None if it did not."""
        if not uris.exists(self.path("rollback.json")):
            return None
        values: dict[str, Any] = json.loads(uris.read_bytes(self.path("rollback.json")))
        return values

    def write_rollback(self, step: int, reason: str) -> None:
        """Record that the run goes back; from then on it trains at half the learning rate."""
        self.check_held()
        uris.write_bytes(
            self.path("rollback.json"), json.dumps({"step": step, "reason": reason}).encode()
        )

    def join_metrics(self) -> list[dict[str, Any]]:
        """Join the parts of the log to `metrics.jsonl`."""
        joined = self.read_metrics()
        if joined:
            self.check_held()
            uris.write_bytes(self.path("metrics.jsonl"), step_log.to_json(joined))
        return joined

    def read_metrics(self) -> list[dict[str, Any]]:
        """Read the parts of the log, by step; of a step that was done again the later attempt
        counts."""
        return step_log.read(self._log)

    def claim_attempt(self) -> int:
        """Take the number of the coming attempt, one more than any before, by writing the first
        part of its log."""
        attempt = 1 + max((part.last[0] for part in step_log.parts(self._log)), default=-1)
        self.write_metrics(attempt, 0, [])
        return attempt

    def write_metrics(self, attempt: int, part: int, lines: Iterable[dict[str, Any]]) -> None:
        """Write one part of the log."""
        self.check_held()
        step_log.write(self._log, attempt, part, lines)

    def compact_metrics(self) -> None:
        """Put parts of the log together where there are many."""
        step_log.compact(self._log)

    @property
    def _log(self) -> str:
        return self.path("metrics")


def open_run(uri: str) -> tuple[RunDir, PretrainConfig]:
    """Open the directory of a run.

    Raises:
        InputError: there is none.
    """
    run = RunDir(uris.absolute(uri))
    config = run.read_config()
    if config is None:
        raise InputError(
            f"run {run.uri} is no run directory: it has no config.yaml; give"
            " the out of jobs.pretrain"
        )
    if config.source.value_range == "percentiles":
        measured = {"value_range": recorded(run.uri) or "auto"}
        source = config.source.model_copy(update=measured)
        config = config.model_copy(update={"source": source})
    return run, config


def environment() -> dict[str, Any]:
    """Describe versions and machine, for provenance; no names, paths or credentials."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": own_cores(),
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "commit": code_commit(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def code_commit() -> str | None:
    """Return the commit of the clone that this process runs from, with `+changes` where files in it
    differ; None where it runs from none."""
    if not (_ROOT / "pyproject.toml").exists() or not (_ROOT / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}+changes" if _git("status", "--porcelain", "-uno") else commit
    except (OSError, subprocess.SubprocessError):  # no git here
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(_ROOT), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "source"
