"""Which steps of a row reuse what the blocks behind the first one gave at an earlier step.

The criterion is that of FBCache (ParaAttention; diffusers' FirstBlockCache): the first block's output tells how far
a step is from the last one that was computed in full. There a whole batch decides together, and waits for the device
to do so. Here each row decides for itself, on the host, before the step: by how fast its first block's output changed
when it was last measured, and never by a measurement younger than two steps, which a GPU may still be working on.
So a picture depends on its request alone, and no step waits for the one before it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from fluxengine.device.failures import halving

KNOWN_AFTER = 2
"""Steps after which the device has surely measured. Fixed, as decisions must not depend on its speed."""


class Readback:
    """Values on their way to the host."""

    def __init__(self, values: torch.Tensor) -> None:
        """`values` [B] may be overwritten afterwards."""
        self._done: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()
        else:
            self._host = values.clone()

    def __getitem__(self, row: int) -> float:
        if self._done is not None:
            self._done.synchronize()
            self._done = None
        return float(self._host[row])


@dataclass(slots=True)
class StepReuse:
    """The decisions of one row. `threshold` is the relative change of the first block's output that may be ignored."""

    threshold: float
    _computed: int | None = None
    """The last step that was computed in full."""
    _rate: float = math.inf
    """Change for each step, as last known."""
    _measured: deque[tuple[int, int, Readback, int]] = field(default_factory=deque)
    """(step, the computed step it was compared with, where the answer will be)"""

    def reuses(self, step: int) -> bool:
        """Whether `step` shall reuse. Asking changes nothing that a second question would notice."""
        while self._measured and self._measured[0][0] <= step - KNOWN_AFTER:
            measured, since, distances, row = self._measured.popleft()
            self._rate = distances[row] / (measured - since)
        return self._computed is not None and self._rate * (step - self._computed) < self.threshold

    def stepped(self, step: int, reused: bool, distances: Readback, row: int) -> None:
        """After `step`: `distances[row]` is how far it was from the last computed one."""
        if self._computed is not None:
            self._measured.append((step, self._computed, distances, row))
        if not reused:
            self._computed = step

    def forget(self) -> None:
        """As if it began only now."""
        self._computed, self._rate = None, math.inf
        self._measured.clear()


class StepCache:
    """What the rows of all batches have in common."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def new_row(self) -> StepReuse:
        return StepReuse(self._threshold)

    def remember(
        self, rows: Sequence[tuple[StepReuse | None, int]], reused: Sequence[bool], distances: torch.Tensor
    ) -> None:
        """After a step: of each row its decisions and which step it was, whether it reused, and its distance [B].

        Where there is no memory to keep them, nothing is known of the rows.
        """

        def remember_all(*_: int) -> None:
            kept = Readback(distances[: len(rows)])
            for place, (row, step) in enumerate(rows):
                if row is not None:
                    row.stepped(step, reused[place], kept, place)

        if halving(1, 1, remember_all):
            for row, _ in rows:
                if row is not None:
                    row.forget()
