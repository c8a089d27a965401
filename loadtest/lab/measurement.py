"""One strategy under load, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.server.moment import Reading
from loadtest.server.use import Use
from loadtest.traffic.record import Record


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was seen of it."""

    repeat: int
    """The round that it belongs to, from 1."""
    records: Sequence[Record]
    use: Use
    problem: str = ""
    """Why it ended before its time, if it did."""
    readings: Sequence[Reading] = ()
    """Of the machine and the server, over its time."""

    @property
    def seconds(self) -> float:
        """From the first request's intended start to the last answer."""
        if not self.records:
            return 0.0
        return max(record.ended for record in self.records) - min(record.intended for record in self.records)
