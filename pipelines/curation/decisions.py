"""Decides of every embedded sample whether it stays: no duplicate, no outlier, and within what is
taken of its cluster. Streamed, a bucket of clusters at a time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines import schema
from pipelines.corpus.curated_version import DECIDED
from pipelines.curation.assigned import CLUSTERS, Assignment
from pipelines.curation.balance import chosen, quotas
from pipelines.curation.duplicates import EXACT, NEAR, Gone
from pipelines.storage.spill import NUM_BUCKETS, Spill

OUTLIER = "outlier"
BALANCE = "balance"
MISFIT = "caption does not fit"
_BINS = 1 << 12  # of distances, to find their median, and of cosines with captions


@dataclass(frozen=True)
class Rules:
    """What else than duplicates goes.

    Attributes:
        max_distance: From its centre, in medians of all distances; None: however far.
        num_samples: In the end; None: however many.
        seed: Of what is chosen.
        min_fit: Cosine of a sample with its captions; None: however little they fit.
        fitting_share: Of the samples with captions, those that fit best and stay; None: all.
    """

    max_distance: float | None
    num_samples: int | None
    seed: int
    min_fit: float | None = None
    fitting_share: float | None = None


class Decisions:
    """What is decided of every sample.

    Args:
        work: Which sample is in which cluster.
        gone: The duplicates.
        rules: What else goes.
        folder: A local folder.

    Attributes:
        before: (K,) samples of each lowest cluster.
        after: (K,) those that stay; complete once all `tables` were read.
        far: Distance beyond which a sample is an outlier; None: there are none.
        fits: Samples by their cosine with their captions, in equal bins from -1 to 1.
        unfit: Cosine with its captions below which a sample goes; None: none does.
    """

    def __init__(self, work: Assignment, gone: Gone, rules: Rules, folder: str) -> None:
        self._work = work
        self._gone = gone
        self._rules = rules
        self._count = len(work.centres.lowest)
        self._spill = Spill(os.path.join(folder, "clusters"), CLUSTERS)
        self.before = np.zeros(self._count, np.int64)
        self.after = np.zeros(self._count, np.int64)
        self.far: float | None = None
        self.fits = np.zeros(_BINS, np.int64)
        self.unfit: float | None = rules.min_fit
        self._lay_out()
        self._quota = self._quotas()

    def _lay_out(self) -> None:
        """Put samples by cluster, and find how far they lie from their centres."""
        histogram = np.zeros(_BINS, np.int64)
        for table in self._work.tables():
            cluster = table["cluster"].to_numpy()
            self.before += np.bincount(cluster, minlength=self._count)
            distance = np.clip(1 - table["cosine"].to_numpy(), 0, 2)
            histogram += np.histogram(distance, bins=_BINS, range=(0, 2))[0]
            fit = _fit_of(table)
            self.fits += np.histogram(fit[~np.isnan(fit)], bins=_BINS, range=(-1, 1))[0]
            self._spill.add(table, cluster % NUM_BUCKETS)
        if self._rules.fitting_share is not None and self.fits.sum():
            going = (1 - self._rules.fitting_share) * self.fits.sum()
            least = 2 * int(np.searchsorted(np.cumsum(self.fits), going)) / _BINS - 1
            self.unfit = max(least, -1.0 if self.unfit is None else self.unfit)
        if self._rules.max_distance is not None and histogram.sum():
            middle = int(np.searchsorted(np.cumsum(histogram), histogram.sum() / 2))
            self.far = self._rules.max_distance * (middle + 0.5) * 2 / _BINS

    def _quotas(self) -> np.ndarray | None:
        """Say how many samples of each cluster stay; None: all that are left."""
        if self._rules.num_samples is None:
            return None
        left = np.zeros(self._count, np.int64)
        for table in self._work.tables():
            stays = self._reasons(table) == ""
            left += np.bincount(table["cluster"].to_numpy()[stays], minlength=self._count)
        return quotas(left, self._work.centres.parents, self._rules.num_samples)

    def _reasons(self, table: pa.Table) -> np.ndarray:
        """Return why samples go whatever their cluster has; empty for those that stay."""
        place = self._gone.place_of(table[schema.SAMPLE_ID].to_numpy())
        reason = np.full(table.num_rows, "", dtype=object)
        if self.far is not None:
            reason[1 - table["cosine"].to_numpy() > self.far] = OUTLIER
        if self.unfit is not None:
            reason[_fit_of(table) < self.unfit] = MISFIT
        duplicate = place >= 0
        exact = np.zeros(table.num_rows, bool)
        exact[duplicate] = self._gone.exact[place[duplicate]]
        reason[duplicate] = NEAR
        reason[exact] = EXACT
        return reason

    def tables(self) -> Iterator[pa.Table]:
        """Yield what is decided, schema `DECIDED`."""
        self.after[:] = 0
        for bucket in range(NUM_BUCKETS):
            table = self._spill.read(bucket)
            if table.num_rows:
                yield self._decided(table)

    def _decided(self, table: pa.Table) -> pa.Table:
        ids = table[schema.SAMPLE_ID].to_numpy()
        cluster = table["cluster"].to_numpy()
        reason = self._reasons(table)
        if self._quota is not None:
            for one in np.unique(cluster):
                left = np.flatnonzero((cluster == one) & (reason == ""))
                taken = chosen(ids[left], int(self._quota[one]), self._rules.seed)
                reason[left[~taken]] = BALANCE
        stays = reason == ""
        self.after += np.bincount(cluster[stays], minlength=self._count)
        place = self._gone.place_of(ids)
        alone = place < 0
        misfit = reason == MISFIT
        cosine = np.where(misfit, _fit_of(table), table["cosine"].to_numpy())
        kept = np.zeros(len(ids), np.int64)
        if not alone.all():
            kept[~alone] = self._gone.kept[place[~alone]]
            cosine[~alone] = self._gone.cosine[place[~alone]]
        columns = {
            schema.SAMPLE_ID: ids,
            "cluster": cluster,
            "kept": pa.array(kept, mask=alone),
            "cosine": pa.array(cosine, from_pandas=True),
            schema.REASON: pa.array(reason, pa.string(), mask=stays),
        }
        return pa.table(columns).select(DECIDED.names).cast(DECIDED)


def _fit_of(table: pa.Table) -> np.ndarray:
    """Return the cosine of each sample with its captions, NaN where it has none."""
    found: np.ndarray = table["fit"].to_numpy()
    return found.astype(np.float32)
