"""What one measurement sends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Load:
    """What Locust is told to send."""

    protocol: str
    mix: str
    seed: int
    requests: int
    concurrent: int
    rate: float | None = None
    """Requests a second of an open loop with Poisson arrivals; None: `concurrent` users who wait for their answers."""
    request_timeout_s: float = 120.0
    check_prompts: bool = False

    def options(self) -> Iterator[str]:
        """Those of locustfile.py."""
        yield from ("--protocol", self.protocol, "--mix", self.mix, "--mix-seed", str(self.seed))
        yield from ("--requests", str(self.requests), "--request-timeout", f"{self.request_timeout_s:g}")
        yield from ("--users", str(self.concurrent), "--spawn-rate", str(self.concurrent))
        if self.rate is not None:
            yield from ("--arrivals", "poisson", "--rate", f"{self.rate:g}")
        if self.check_prompts:
            yield "--check-prompts"

    def one_at_a_time(self, requests: int) -> Load:
        return replace(self, requests=requests, concurrent=1, rate=None)
