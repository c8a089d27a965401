"""Failures of the device and of single rows: told apart, and kept from harming others."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from fluxengine.errors import FluxError, Internal, OutOfMemory

log = logging.getLogger("fluxengine")

Work = Callable[[int, int], None]
"""Does the rows from the first to before the second number."""


class DeviceLost(Exception):
    """The accelerator gave an error that it does not recover from within this process."""


def halving(
    count: int, limit: int, work: Work, on_out_of_memory: Callable[[int], None] | None = None
) -> dict[int, FluxError]:
    """Calls `work(start, stop)` for all of 0…count, at most `limit` at a time.

    A part that fails is halved and tried again, until what is at fault stands alone: too large a batch fits then, and
    a row that cannot be done harms no other. Returns the rows that failed even alone. Raises DeviceLost.
    """
    failures: dict[int, FluxError] = {}
    parts = [(start, min(start + limit, count)) for start in range(0, count, limit)][::-1]
    while parts:
        start, stop = parts.pop()
        try:
            work(start, stop)
        except Exception as error:
            failure = as_flux_error(error)
            if stop - start == 1:
                failures[start] = failure
                log.warning("one job failed: %s", failure, exc_info=error)
                continue
            if isinstance(failure, OutOfMemory) and on_out_of_memory:
                on_out_of_memory(stop - start)
            middle = (start + stop) // 2
            parts += [(middle, stop), (start, middle)]
    return failures


def as_flux_error(error: Exception) -> FluxError:
    """What the caller is told. Raises DeviceLost."""
    if is_out_of_memory(error):
        return OutOfMemory("device", "has no memory for this picture even alone; ask for a smaller one")
    if isinstance(error, torch.AcceleratorError) and _is_lost():
        raise DeviceLost(str(error)) from error
    return Internal("model", f"{type(error).__name__}: {error}")


def is_out_of_memory(error: Exception) -> bool:
    # Allocators of the CPU raise a plain RuntimeError, and CUDA itself an AcceleratorError, as where it loads a kernel.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        said in str(error) for said in ("can't allocate memory", "CUDA error: out of memory")
    )


def _is_lost() -> bool:
    """Whether the device does nothing any more, as after a fault in a kernel; a bad launch it survives."""
    try:
        torch.accelerator.synchronize()
    except RuntimeError:
        return True
    return False
