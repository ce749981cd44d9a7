"""Recognises folders that this project wrote, whose pictures and shards are nobody's corpus, by
what lies in them."""

from collections.abc import Callable, Collection
from typing import NamedTuple

MOST_NAMES = 64  # a folder with more in it is none of these


class _Output(NamedTuple):
    """What a job leaves behind: the reason to leave it out, and what lies in its folder."""

    reason: str
    always: frozenset[str]
    either: frozenset[str]
    others: frozenset[str]


def _output(reason: str, always: str, either: str, others: str) -> _Output:
    return _Output(reason, *(frozenset(names.split()) for names in (always, either, others)))


_OUTPUTS = (
    _output(
        "folder of a run (jobs.pretrain)",
        "config.yaml",
        "checkpoints env.json",
        "metrics metrics.jsonl rollback.json artifact quarantine samples manifest tensorboard"
        " report probes",
    ),
    _output(
        "folder of a pack (jobs.pack)",
        "pack.json",
        "shards plan plan.parquet",
        "done quarantine manifest staging source",
    ),
    _output(
        "folder of an export (jobs.export)",
        "export.json",
        "embeddings embeddings.lance manifest",
        "quarantine fragments progress.json",
    ),
)
_MANIFEST = _output("manifest (jobs.index)", "versions parts", "", "tombstones left_out curated")
_SIGNS = frozenset[str]().union(
    *(output.always | output.either | output.others for output in (*_OUTPUTS, _MANIFEST))
)


def is_sign(name: str) -> bool:
    """Tell whether something of this name may lie in a folder of this project, so that a look at it
    pays."""
    return name in _SIGNS


def output_in(names: Collection[str], names_in: Callable[[str], Collection[str]]) -> str | None:
    """Tell what this project wrote into a folder.

    Args:
        names: Of the files and folders in it.
        names_in: Lists a folder in it.

    Returns:
        Why nothing of it belongs to a corpus; None for any other folder.
    """
    if len(names) > MOST_NAMES:
        return None
    for output in _OUTPUTS:
        if output.always <= set(names) and output.either & set(names):
            return output.reason
    if _MANIFEST.always <= set(names) <= _MANIFEST.always | _MANIFEST.others:
        versions = names_in("versions")
        if versions and all(name.removesuffix(".json").isdigit() for name in versions):
            return _MANIFEST.reason
    return None
