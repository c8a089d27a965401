"""Training state on disk: written whole or not at all, read back to go on exactly where a run stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

SAVE_EVERY_S = 300.0


class Budget:
    """How long a run goes on: so many steps in all, so many minutes of this run, or until `end` is called."""

    def __init__(self, steps: int, minutes: float | None) -> None:
        self._steps = steps
        self._seconds = None if minutes is None else minutes * 60
        self._started_s = time.monotonic()
        self._saved_s = self._started_s
        self._ended = False

    def end(self) -> None:
        """Let no further step be done; for signal handlers."""
        self._ended = True

    def left(self, step: int) -> bool:
        """Whether `step` may still be done."""
        in_time = self._seconds is None or time.monotonic() - self._started_s < self._seconds
        return step < self._steps and in_time and not self._ended

    def save_due(self) -> bool:
        """Whether SAVE_EVERY_S have passed since the last time that this said yes."""
        if time.monotonic() - self._saved_s < SAVE_EVERY_S:
            return False
        self._saved_s = time.monotonic()
        return True


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state; a run that dies here leaves the former file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(dict(state), part)
    os.replace(part, path)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
