"""Who asks the launcher to stop: signals, and the `make` above it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

# make and a process group can both hand on one and the same signal; after this, a further one means "now".
SAME_SIGNAL_S = 2.0


class StopRequested(Exception):
    """Somebody asks to stop."""


class Signals:
    """The first SIGINT or SIGTERM stops the server, and a later one kills it.

    The first is only noted: raised from the handler, it could cut anything off in the middle, such as the start of a
    process that nobody would know then. Whoever ignores SIGCHLD never learns how a child has ended, and hands that on
    to the programs that he starts: not to this one.
    """

    def __init__(self, kill: Callable[[], None]) -> None:
        self._kill = kill
        self._make = _Make()
        self._first_at: float | None = None
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def look(self) -> None:
        """Raises StopRequested after the first signal."""
        if self._first_at is not None or self._make.wants_to_stop():
            raise StopRequested

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._first_at is None:
            self._first_at = time.monotonic()
        elif time.monotonic() - self._first_at > SAME_SIGNAL_S:
            self._kill()


class _Make:
    """The `make` above, if there is one. It waits for us without handing SIGINT on, so we look whether it got one."""

    def __init__(self) -> None:
        self.pid = os.getppid()
        self.is_parent = self._status().get("Name") in ("make", "gmake")

    def wants_to_stop(self) -> bool:
        if not self.is_parent:
            return False
        handling = int(self._status().get("SigBlk", "0"), 16) >> (signal.SIGINT - 1) & 1
        return bool(handling) or os.getppid() != self.pid

    def _status(self) -> dict[str, str]:
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return {}
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
