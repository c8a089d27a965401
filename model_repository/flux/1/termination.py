"""What SIGTERM means to a process of the model: take nothing more, and give up in time what is in flight.

tritonserver tells its models nothing of a SIGTERM: it waits for what is in flight until its exit timeout, and then
breaks off the rest without a word. So whoever ends the server sends the signal to its models as well, as tools/triton
does, and service managers that signal all processes of a service.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxengine.engine import Engine

log = logging.getLogger("fluxengine")

LAST_S = 30.0
"""After all has been given up. By then a server that is ending has unloaded the model."""

ENDED = b"\0"
"""What is written in the place of a signal's number when nobody needs to wait for one any more."""


class Termination:
    """To be made and closed by the main thread."""

    def __init__(self, engine: Engine, drain_s: float) -> None:
        """`drain_s`: how long what is in flight may go on after the signal."""
        self._engine = engine
        self._drain_s = drain_s
        self._closed = threading.Event()
        # The main thread runs no Python while it waits for Triton, so a handler would come too late: only the number of
        # the signal is written at once.
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        try:
            signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
            signal.signal(signal.SIGTERM, lambda number, frame: None)
        except ValueError as error:
            log.warning("SIGTERM will not be noticed: %s", error)
        self._thread = threading.Thread(target=self._wait, name="termination", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)
        self._closed.set()
        os.write(self._write_end, ENDED)
        self._thread.join()
        os.close(self._read_end)
        os.close(self._write_end)

    def _wait(self) -> None:
        while (number := os.read(self._read_end, 1)) != ENDED:
            if number[0] == signal.SIGTERM:
                log.warning("SIGTERM: taking nothing more; what is in flight has %g s", self._drain_s)
                self._engine.drain()
                if self._closed.wait(self._drain_s):
                    return
                self._engine.give_up()
                if not self._closed.wait(LAST_S):
                    log.error("the server goes on; this process, which takes nothing more, ends")
                    os._exit(1)  # whoever watches the processes of the server loads the model again
                return
