"""Keeps a server running: watches over its models, and starts it again when it crashes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from tools.triton.errors import ServerFailed
from tools.triton.process import collect_orphans
from tools.triton.server import TritonServer
from tools.triton.watching.watchdog import Watchdog

LOGGER = logging.getLogger(__name__)
LOOK_S = 0.1
ORPHANS_S = 2.0


class Restarts:
    """Whether and when a server that has crashed is started again.

    At most `limit` times within `within_s`, and in a row without ever serving. The pause begins at a second and doubles
    up to `longest_s`; a server that lived for `recovered_s` begins anew.
    """

    def __init__(
        self, limit: int = 5, *, within_s: float = 600.0, longest_s: float = 30.0, recovered_s: float = 60.0
    ) -> None:
        self.limit = limit
        self.within_s = within_s
        self._longest_s = longest_s
        self._recovered_s = recovered_s
        self._crashes: list[float] = []
        self._pause_s = 0.0

    def after_crash(self, lived_s: float, now: float) -> float | None:
        """The pause in seconds before the next start, or None for none. What never served lived 0 s."""
        if lived_s:
            self._crashes = [crash for crash in self._crashes if now - crash < self.within_s]
        self._crashes.append(now)
        if len(self._crashes) > self.limit:
            return None
        self._pause_s = min(2 * self._pause_s, self._longest_s) if lived_s < self._recovered_s else 0.0
        self._pause_s = self._pause_s or 1.0
        return self._pause_s


def supervise(server: TritonServer, restarts: Restarts, look: Callable[[], None], attend: Callable[[], None]) -> None:
    """Starts the server, and returns when somebody has stopped it from elsewhere, with exit code 0.

    `look` is called again and again, and `attend` as well while the server serves; what they raise ends this, and the
    server is still to be stopped then. Raises ServerFailed if it does not start the first time, or crashes too often.
    """
    server.start(look)
    while True:
        began = time.monotonic()
        with Watchdog(server):
            exit_code = _wait_for_end(server, look, attend)
        server.stop()
        if exit_code == 0:
            return
        _start_again(server, restarts, look, exit_code, time.monotonic() - began)


def _wait_for_end(server: TritonServer, look: Callable[[], None], attend: Callable[[], None]) -> int:
    collect_at = 0.0
    while (exit_code := server.poll()) is None:
        attend()
        look()
        if os.getpid() == 1 and time.monotonic() > collect_at:
            collect_orphans(server.children)
            collect_at = time.monotonic() + ORPHANS_S
        time.sleep(LOOK_S)
    attend()
    return exit_code


def _start_again(
    server: TritonServer, restarts: Restarts, look: Callable[[], None], exit_code: int, lived_s: float
) -> None:
    problem = f"tritonserver ended with code {exit_code} after {lived_s:.0f} s"
    while True:
        pause_s = restarts.after_crash(lived_s, time.monotonic())
        within = f"within {restarts.within_s / 60:g} minutes"
        if pause_s is None:
            problem = f"{problem}: not started again, as {restarts.limit} times {within} is the limit"
            raise ServerFailed(problem, server.log_tail(), exit_code)
        LOGGER.error("%s: starting it again in %g s, at most %d times %s", problem, pause_s, restarts.limit, within)
        start_at = time.monotonic() + pause_s
        while time.monotonic() < start_at:
            look()
            time.sleep(LOOK_S)
        try:
            server.start(look)
        except (ServerFailed, OSError) as error:  # OSError: no memory, no space, no files
            problem, exit_code, lived_s = str(error).partition("\n")[0], getattr(error, "exit_code", None) or 1, 0.0
        else:
            LOGGER.warning("tritonserver serves again")
            return
