"""Test images that the encoder may have seen: those whose duplicates lie in the corpus it was
pretrained on."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from jobs.adaptation.label_sections import LeakConfig
from jobs.adaptation.telling import NAMES_KEPT, say, shown
from jobs.setup import registered
from jobs.setup.failures import InputError
from jobs.setup.value_range import limits_for
from models.artifact import Artifact
from pipelines import schema
from pipelines.corpus.manifest import Manifest, open_manifest, versions
from pipelines.labels import near_duplicates
from pipelines.labels.labelled_data import LabelledData
from pipelines.labels.labelled_stream import LabelledOrder, manifest_rows
from pipelines.labels.near_duplicates import EXACT
from pipelines.media.clips import Sampling
from pipelines.media.contract import Limits
from pipelines.storage import uris
from pipelines.stream.orders import ManifestOrder


@dataclass(frozen=True)
class Leaks:
    """What of a labelled set the corpus has too.

    Attributes:
        leaked: (N,) bool, whether each sample of the set has a duplicate there; False outside test.
        account: Counts and pairs, for the result.
    """

    leaked: np.ndarray
    account: dict[str, Any]

    def among(self, rows: np.ndarray, data: LabelledData) -> np.ndarray:
        """Tell which test samples of some rows of the set leaked.

        Args:
            rows: (N,) bool.
            data: The samples of these rows.
        """
        leaked: np.ndarray = self.leaked[rows][data.of("test")]
        return leaked


class Checking(Protocol):
    """A job that may look for its test samples in a pretraining corpus."""

    @property
    def check_leak(self) -> bool:
        """Tell whether it does."""

    @property
    def leak(self) -> LeakConfig:
        """Return where."""


def corpus_asked_for(job: Checking, encoder: Artifact, uri: str) -> Manifest | None:
    """Open the corpus that a job is to look through, as `corpus_of`; None where it is not to.

    Raises:
        InputError: it is not there.
    """
    return corpus_of(encoder, uri, job.leak) if job.check_leak else None


def corpus_of(encoder: Artifact, uri: str, config: LeakConfig) -> Manifest:
    """Open the manifest that an artifact was pretrained on.

    Args:
        encoder: The artifact; its provenance names the source and the version.
        uri: Where it lies: a run keeps the manifest of its source beside it.
        config: Where the user says the manifest lies.

    Raises:
        InputError: it is not there.
    """
    source = encoder.provenance.get("source")
    version = encoder.provenance.get("manifest_version")
    beside = uris.join(registered.run_around(uri), "manifest")
    for place in [config.corpus] if config.corpus else [source, beside]:
        there = versions(place) if place else []
        if place and there:
            wanted = version if version in there and not config.corpus else None
            return open_manifest(place, wanted)
    said = f"its provenance names {source}" if source else "its provenance names no source"
    raise InputError(
        f"check_leak=true looks through the corpus of the artifact {uri}, and"
        f" {config.corpus or beside} is no manifest ({said}): give one with leak.corpus (jobs.index"
        " makes it)"
    )


def beside_run(config: LeakConfig, run: str) -> LeakConfig:
    """Say where the corpus of a run's checkpoints lies, whose artifacts are made elsewhere: in the
    run, where it keeps the manifest of its source.

    Args:
        config: Where the user says that it lies.
        run: URI of the run.
    """
    beside = uris.join(run, "manifest")
    if config.corpus is None and versions(beside):
        return config.model_copy(update={"corpus": beside})
    return config


@dataclass(frozen=True)
class Found:
    """What a search through the corpus found.

    Attributes:
        best: Of each sample looked for that is there, by its index: the distance to its nearest
            duplicate, bits, and where that lies in the corpus.
        matches: How many duplicates each sample looked for has, (N,) int64.
        order: Of the corpus.
        about: What was looked through, for the result.
    """

    best: dict[int, tuple[int, int]]
    matches: np.ndarray
    order: ManifestOrder
    about: dict[str, Any]

    def account(self, rows: pa.Table) -> dict[str, Any]:
        """Count what was found, and list the nearest duplicate of each sample, exact ones first.

        Args:
            rows: The manifest rows that were looked for.
        """
        exact = sum(distance == EXACT for distance, _ in self.best.values())
        listed = sorted(self.best, key=lambda one: self.best[one])[:NAMES_KEPT]
        places = near_duplicates.read_order(
            self.order, np.array([self.best[one][1] for one in listed])
        )
        images = rows.take(pa.array(listed, pa.int64())).select([schema.URI, schema.MEMBER])
        pairs = [
            {
                "test": _shown(image),
                "corpus": _shown(place),
                "kind": "exact" if self.best[one][0] == EXACT else "near",
                "distance_bits": max(self.best[one][0], 0),
                "matches": int(self.matches[one]),
            }
            for one, image, place in zip(listed, images.to_pylist(), places, strict=True)
        ]
        counts = {"exact": exact, "near": len(self.best) - exact, "test_images": rows.num_rows}
        account = {**counts, "pairs": pairs, **self.about}
        _tell(account, rows.num_rows)
        return account


def search(rows: pa.Table, encoder: Artifact, corpus: Manifest, config: LeakConfig) -> Found:
    """Look for images in a corpus, in one pass over it.

    Args:
        rows: Manifest rows of the images, with `schema.ROW`.
        encoder: Whose way of reading deep images is used.
        corpus: What it was pretrained on; of its videos the frame in the middle of each clip.
        config: How near is near.
    """
    limits = limits_for(encoder, Limits())
    work = near_duplicates.work_of(LabelledOrder(rows), limits, Sampling(), "leak")
    wanted = near_duplicates.fingerprints(work, rows.num_rows)
    order = ManifestOrder(corpus)
    through = near_duplicates.work_of(order, limits, Sampling(per_video=corpus.per_video), "leak")
    best: dict[int, tuple[int, int]] = {}
    counts = np.zeros(rows.num_rows, np.int64)
    seen = 0
    for read, found in near_duplicates.matches(
        through, corpus.num_rows, wanted, config.max_distance
    ):
        seen += read
        for one, place, distance in zip(
            *(found[n].to_pylist() for n in found.column_names), strict=True
        ):
            counts[one] += 1
            best[one] = min(best.get(one, (distance, place)), (distance, place))
    about = {"corpus": corpus.uri, "corpus_version": corpus.version}
    about |= {"corpus_rows": corpus.num_rows, "corpus_unreadable": corpus.num_rows - seen}
    return Found(best, counts, order, about)


def find_leaks(
    data: LabelledData, encoder: Artifact, corpus: Manifest | None, config: LeakConfig
) -> tuple[LabelledData, Leaks | None]:
    """Look for every test image in a corpus, in one pass over it, and tell of it in the samples'
    account.

    Args:
        data: The labelled sets.
        encoder: Whose way of reading deep images is used.
        corpus: What it was pretrained on; None: nobody asked.
        config: How near is near.
    """
    if corpus is None:
        return data, None
    test = np.flatnonzero(data.of("test"))
    rows = manifest_rows(data.keep(data.of("test")))
    found = search(rows, encoder, corpus, config)
    leaked = np.zeros(data.num_rows, bool)
    leaked[test[sorted(found.best)]] = True
    leaks = Leaks(leaked, found.account(rows))
    return data.with_account({"leak": leaks.account}), leaks


def _shown(row: dict[str, Any]) -> str:
    member = row[schema.MEMBER]
    return f"{row[schema.URI]}{f'/{member}' if member else ''}"


def _tell(account: dict[str, Any], num_test: int) -> None:
    total = account["exact"] + account["near"]
    if not total:
        say(f"check_leak: none of {num_test} test images is in {account['corpus']}")
        return
    say(
        f"check_leak: {total} of {num_test} test images are in the corpus {account['corpus']}:"
        f" {account['exact']} of the same bytes, {account['near']} nearly the same"
        f" ({shown([pair['test'] for pair in account['pairs'][:3]])})"
    )
