"""The batches of all picture sizes: their memory, and how many rows of each it allows."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container

import torch

from fluxengine.device.latent_batch import LatentBatch, RowState
from fluxengine.families.base import Family
from fluxengine.job import Job
from fluxengine.size import Size

KEPT_SIZES = 4
"""Picture sizes whose buffers are kept while nobody uses them."""

TRY_MORE_AFTER = 200
"""Steps of a batch that was made smaller for want of memory, before a larger one is tried: neighbours may have left."""

log = logging.getLogger("fluxengine")


class Batches:
    """Used by the engine's thread alone."""

    def __init__(self, family: Family, max_batch: int, in_flight: Container[Job], *, step_cache: bool) -> None:
        """`in_flight` is kept up to date by its owner. `step_cache`: whether rows keep what it needs."""
        self._family = family
        self._max_batch = max_batch
        self._in_flight = in_flight
        self._step_cache = step_cache
        self._batches: dict[Size, LatentBatch] = {}  # least recently stepped first
        self._fits: dict[Size, int] = {}  # rows that fitted into memory, where max_batch did not
        self._fitted: Counter[Size] = Counter()  # steps since then

    def of(self, size: Size, example: RowState) -> LatentBatch:
        """The batch of a size; where it has to be made, its rows are as the example."""
        batch = self._batches.pop(size, None)
        if batch is None:
            for idle in self._idle()[: max(0, len(self._batches) + 1 - KEPT_SIZES)]:
                del self._batches[idle]
            shape = self._family.step_cache_shape(size) if self._step_cache else None
            batch = LatentBatch(size, max(2, self._max_batch), example, shape)  # one job may need two rows
        self._batches[size] = batch
        return batch

    def drop_idle(self, size: Size) -> bool:
        """Gives back the memory of sizes other than this that nobody uses. False if there is none."""
        idle = [other for other in self._idle() if other != size]
        for other in idle:
            del self._batches[other]
        if self._family.device.type == "cuda":
            torch.cuda.empty_cache()
        return bool(idle)

    def rows_that_fit(self, size: Size) -> int:
        """Into one call of the transformer, as far as is known."""
        return self._fits.get(size, self._max_batch)

    def shrink(self, size: Size, rows: int) -> None:
        """So many rows did not fit."""
        if self.drop_idle(size):
            log.warning("out of memory at a batch of %d for %dx%d: gave back unused buffers", rows, size[1], size[0])
            return
        self._fits[size], self._fitted[size] = max(1, rows // 2), 0
        log.warning(
            "out of memory at a batch of %d for %dx%d: going on with %d", rows, size[1], size[0], self._fits[size]
        )

    def grow(self, size: Size) -> None:
        """After each step: what did not fit may do so by now."""
        if size in self._fits:
            self._fitted[size] += 1
            if self._fitted[size] >= TRY_MORE_AFTER:
                self._fits[size], self._fitted[size] = 2 * self._fits[size], 0
                if self._fits[size] >= self._max_batch:
                    del self._fits[size]

    def _idle(self) -> list[Size]:
        """Sizes that nobody in flight has."""
        return [
            size for size, batch in self._batches.items() if not any(row.job in self._in_flight for row in batch.rows)
        ]
