"""What is kept of each request: a line of JSON, written as the request ends."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_EPOCH_S = time.time() - time.monotonic()


def now_s() -> float:
    """Seconds since the epoch, by a clock that nobody sets while a test runs."""
    return _EPOCH_S + time.monotonic()


@dataclass(frozen=True)
class Record:
    """One finished request. Moments are seconds since the epoch; what the server did not say is None."""

    name: str
    protocol: str
    width: int
    height: int
    steps: int
    priority: int
    kind: str
    """`class` in the file."""
    seed: int
    intended: float
    """When it was to be sent: latency counts from here. In a closed loop the same as `sent`."""
    sent: float
    first_progress: float | None
    ended: float
    ok: bool
    error: dict[str, str] | None
    queue_ms: float | None
    encode_ms: float | None
    denoise_ms: float | None
    decode_ms: float | None
    total_ms: float | None
    mean_batch: float | None
    bytes: int
    """Of the picture's file."""

    @property
    def latency_ms(self) -> float:
        return (self.ended - self.intended) * 1000

    @property
    def first_progress_ms(self) -> float | None:
        """From the intended start to the first step that was told of."""
        return None if self.first_progress is None else (self.first_progress - self.intended) * 1000

    @property
    def code_and_text(self) -> tuple[str, str]:
        """Of its error; empty if there is none."""
        error = self.error or {}
        return error.get("code", ""), error.get("text", "")

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {"class" if name == "kind" else name: value for name, value in asdict(self).items()}

    @classmethod
    def parse(cls, line: str) -> Record:
        """Of JSON. Raises ValueError or TypeError for a line that is no record."""
        return cls(**{"kind" if name == "class" else name: value for name, value in json.loads(line).items()})


def read_records(file: Path) -> list[Record]:
    """All whole records of a file that may still be written to; none while there is no file.

    Raises ValueError or TypeError for a line that is no record.
    """
    try:
        lines = file.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [Record.parse(line) for line in lines]
