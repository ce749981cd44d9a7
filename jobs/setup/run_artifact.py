"""The artifact of a run: written from the weights of a step, and found where a job is given the
run."""

import io
import json
import sys
from typing import Any

import torch
from torch import nn

from jobs.setup import registered, run_start
from jobs.setup.failures import InputError
from jobs.training import checkpoints
from jobs.training.run_config import PretrainConfig, build
from jobs.training.run_dir import RunDir, environment
from models import artifact
from models.encoders.encoder import Encoder
from models.multimodal.text_tower import TextTower
from models.starting.continuation import StartConfig
from models.supervised.head import HeadCopies
from pipelines.storage import uris
from pipelines.stream.ledger import Ledger

FOLDER = "artifact"
HEADS = "heads"  # in place of it until one of several heads is chosen
DESCRIPTION = "artifact.json"


def write(
    uri: str,
    run: str,
    config: PretrainConfig,
    encoder: Encoder,
    *,
    head: nn.Module | None = None,
    text: TextTower | None = None,
    step: int,
    ledger: Ledger,
    commit: str | None,
    metrics: dict[str, Any],
) -> str:
    """Write an encoder with what made it; returns the digest.

    Args:
        uri: Folder of the artifact.
        run: The run's directory, which holds the weights that it started from.
        config: Of the run.
        encoder: With the weights of the step.
        head: What labels taught on it.
        text: What embeds texts beside it, with the run's tokenizer from here on.
        step: Optimiser steps they have seen.
        ledger: Which versions of the manifest they have seen.
        commit: Of the code that trained them; None: not known.
        metrics: The log's line of the step; a figure that is not finite becomes null.
    """
    dump = config.model_dump(mode="json")
    kept = ["method", "encoder", "views", "optim", "seed", "global_batch_size"]
    if config.start != StartConfig():
        kept.append("start")
    tokenizer = RunDir(run).tokenizer()
    if text is not None:
        text.tokenizer = tokenizer
    return artifact.save(
        uri,
        encoder,
        head=head,
        text=text,
        config={name: dump[name] for name in kept},
        preprocess=config.preprocess(tokenizer),
        provenance={
            "fingerprint": config.fingerprint(),
            "source": config.source.uri,
            "manifest_version": ledger.spans[-1].version,
            "manifest_versions": sorted({span.version for span in ledger.spans}),
            "num_steps": step,
            "samples_seen": step * config.global_batch_size,
            "metrics": metrics,
            "commit": commit,
            "packages": environment()["packages"],
        },
        start=run_start.of_artifact(config, run),
    )


def folder_of(head: nn.Module | None) -> str:
    """Return where in a run's directory its weights are written at the end."""
    return HEADS if isinstance(head, HeadCopies) else FOLDER


def keep_head(run: RunDir, config: PretrainConfig, number: int, told: dict[str, Any]) -> None:
    """Write the artifact of a run that has trained several heads, with one of them.

    Args:
        run: Its directory, with what was written at its end; the other heads go.
        config: Of the run.
        number: Which head, from 0.
        told: Why, for the artifact's provenance.
    """
    whole = artifact.load(run.path(HEADS))
    assert isinstance(whole.head, HeadCopies)
    run.check_held()
    artifact.save(
        run.path(FOLDER),
        whole.encoder,
        head=whole.head.heads[number],
        config=whole.config,
        preprocess=config.preprocess(),
        provenance={**whole.provenance, **told},
        start=run_start.of_artifact(config, run.uri),
    )
    uris.remove(run.path(HEADS))


def _kept_head(heads: HeadCopies, run: RunDir) -> nn.Module:
    """Return the head that was chosen when the run ended.

    Raises:
        InputError: it has not ended.
    """
    place = run.path(FOLDER)
    if not uris.exists(uris.join(place, DESCRIPTION)):
        raise InputError(
            f"run {run.uri} trains {len(heads.heads)} heads, of which none is chosen before its"
            " end: let it end, with the jobs.adapt that began it"
        )
    number: int = artifact.load(place).provenance["chosen_head"]
    return heads.heads[number]


def write_from_checkpoint(
    run: RunDir, config: PretrainConfig, step: int | None, out: str
) -> tuple[str, int]:
    """Write the weights of a checkpoint as an artifact; the newest committed one where no step is
    given.

    Returns:
        The digest, and the step.

    Raises:
        InputError: there is no such checkpoint.
    """
    kept = checkpoints.whole(run.uri)
    newest = run.committed_step()
    wanted = step if step is not None else newest if newest in kept else max(kept, default=0)
    if wanted not in kept:
        there = ", ".join(map(str, kept)) if kept else "none"
        given = f"step {step}" if step is not None else "checkpoint"
        raise InputError(f"run {run.uri} has no {given}: whole checkpoints there are: {there}")
    place = kept[wanted]
    data = uris.read_bytes(uris.join(place, checkpoints.STATE))
    saved = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    method = build(config, start=False)
    method.load_state_dict(saved["method"])
    encoder, head, text = method.ships()
    if isinstance(head, HeadCopies):
        head = _kept_head(head, run)
    digest = write(
        out,
        run.uri,
        config,
        encoder,
        head=head,
        text=text,
        step=wanted,
        ledger=checkpoints.ledger_of(place),
        commit=run.commit(),
        metrics=_line(run, wanted),
    )
    return digest, wanted


def _line(run: RunDir, step: int) -> dict[str, Any]:
    """Return the last line of the log up to a step."""
    lines = [line for line in run.join_metrics() if line["step"] <= step]
    return lines[-1] if lines else {}


def describe(place: str) -> dict[str, Any]:
    """Read the description of the artifact at a place."""
    found: dict[str, Any] = json.loads(uris.read_bytes(uris.join(place, DESCRIPTION)))
    return found


def begun_with(run: str) -> str | None:
    """Return the digest of the artifact that a run starts from; None where it starts from none."""
    config = RunDir(run).read_config()
    place = config.encoder.weights if config else None
    if place is None or not uris.exists(uris.join(place, DESCRIPTION)):
        return None
    digest: str = describe(place)["digest"]
    return digest


def find(uri: str, key: str = "artifact", began: str | None = None) -> str:
    """Return the place of the artifact that a job was given: itself, a run's own, or a registered
    version's.

    Args:
        uri: What was given.
        key: That it was given by.
        began: Digest of the artifact that the job's results were begun with; an alias of a registry
            that has moved since is not followed.

    Raises:
        InputError: it is a run or a checkpoint without one, and the line says how to make it; or a
            registry has no such version or alias.
    """
    if uris.exists(uris.join(uri, DESCRIPTION)):
        return uri
    own = uris.join(uri, FOLDER)
    if uris.exists(uris.join(own, DESCRIPTION)):
        print(f"{key} {uri} is a run: taking {own}", file=sys.stderr)
        return own
    if (reference := registered.given(uri)) is not None:
        return registered.find(reference, uri, key, began)
    parent, _, name = uri.rstrip("/").rpartition("/")
    if uris.exists(uris.join(uri, "config.yaml")):
        raise InputError(
            f"{key} {uri} is a run that has not written its artifact: let it end, or make one of"
            f" its newest checkpoint: python -m jobs.artifact run={uri} out={own}"
        )
    if uris.exists(uris.join(uri, checkpoints.STATE)) and name.startswith(checkpoints.PREFIX):
        run = parent.rpartition("/")[0]
        step = checkpoints.step_of(name)
        raise InputError(
            f"{key} {uri} is a checkpoint: make an artifact of it: python -m jobs.artifact"
            f" run={run} step={step} out={uris.join(run, f'artifact-{step}')}"
        )
    if name in (checkpoints.FOLDER, checkpoints.SERIES) and uris.exists(
        uris.join(parent, "config.yaml")
    ):
        raise InputError(
            f"{key} {uri} holds the checkpoints of a run: make an artifact of one: "
            f"python -m jobs.artifact run={parent} out={uris.join(parent, FOLDER)}"
        )
    raise InputError(
        f"{key} {uri} holds no {DESCRIPTION}: give the folder of an artifact, or a run that has"
        " one; of weights that were trained elsewhere python -m jobs.artifact encoder.name=NAME"
        " encoder.weights=URI out=URI makes one"
    )
