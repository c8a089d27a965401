"""Reads the records that the Locust users write."""

from __future__ import annotations

import json
from pathlib import Path

from loadtest.traffic.record import Record


def read_samples(file: Path) -> list[Record]:
    """All whole records of a file that may still be written to; none while there is no file.

    Raises ValueError or TypeError for a line that is no record.
    """
    try:
        lines = file.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [parse_sample(line) for line in lines]


def parse_sample(line: str) -> Record:
    values = json.loads(line)
    return Record(**{"kind" if name == "class" else name: value for name, value in values.items()})


def first_progress_ms(sample: Record) -> float | None:
    """From the intended start to the first step that was told of."""
    return None if sample.first_progress is None else (sample.first_progress - sample.intended) * 1e3


def error_of(sample: Record) -> tuple[str, str]:
    """(code, text) of a request that failed."""
    error = sample.error or {}
    return error.get("code", ""), error.get("text", "")
