"""flux_unary's end of the socket to the processes of flux, which it finds by itself as they come and go."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from local_wire import Arrays, is_private, packed, read_message, socket_folder

from fluxengine.errors import FluxError, Overloaded, Unavailable

log = logging.getLogger("flux_unary")

LOOK_S = 0.1
"""How often processes are looked for."""

MOST_UNSENT_BYTES = 2**28
"""Of one process. It reads at once, so only large uploads of many at the same time come to this."""

Answered = Callable[[int, Arrays, "str | FluxError | None"], None]
"""Called once for each request, by the client's thread: its number, and its output tensors or what went wrong."""


class _Line:
    """To one process of flux. Used by the loop alone."""

    def __init__(self, path: Path, writer: asyncio.StreamWriter) -> None:
        self.path = path
        self.writer = writer
        self.open: set[int] = set()
        self.in_flight = 0
        """Images there, by what it said last and what was sent since."""
        self.closing = False


class LocalClient:
    def __init__(self, model: str, answered: Answered) -> None:
        self._model = model
        self._answered = answered
        self._lines: dict[Path, _Line] = {}
        self._reading: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-client", daemon=True)
        self._thread.start()
        self._finding = asyncio.run_coroutine_threadsafe(self._find_always(), self._loop)

    def send(self, number: int, message: bytes, images: int) -> None:
        """A request, to the process with the least in flight."""
        asyncio.run_coroutine_threadsafe(self._send(number, message, images), self._loop)

    def cancel(self, number: int) -> None:
        """Its caller has left. It is still answered."""
        self._loop.call_soon_threadsafe(self._cancel, number)

    def close(self) -> None:
        """To be called when all is answered."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._finding.cancel()
        for line in self._lines.values():
            line.writer.close()
        await asyncio.gather(*self._reading)

    async def _find_always(self) -> None:
        while True:
            try:
                await self._find()
            except OSError as error:  # the folder changes all the time
                log.debug("%s", error)
            await asyncio.sleep(LOOK_S)

    async def _find(self) -> None:
        folder = socket_folder()
        for path in folder.glob(f"{self._model}-*.sock"):
            if path in self._lines or not is_private(folder):
                continue
            try:
                reader, writer = await asyncio.open_unix_connection(path)
            except ConnectionRefusedError:  # its process was killed
                path.unlink(missing_ok=True)
            except OSError as error:
                log.debug("%s: %s", path, error)  # it went away just now
            else:
                if path in self._lines:  # whoever else looked was faster
                    writer.close()
                    continue
                self._lines[path] = line = _Line(path, writer)
                task = asyncio.ensure_future(self._read(line, reader))
                self._reading.add(task)
                task.add_done_callback(self._reading.discard)

    async def _read(self, line: _Line, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._heard(line, *await read_message(reader))
        except (asyncio.IncompleteReadError, OSError):
            pass  # the other process has ended, or this is closing
        except Exception:
            log.exception("the connection to %s broke", line.path)
        finally:
            del self._lines[line.path]
            line.writer.close()
            problem = "its process ended before it answered; send the request again"
            for number in line.open:
                self._answered(number, {}, Unavailable(self._model, problem))

    def _heard(self, line: _Line, head: dict[str, Any], arrays: Arrays) -> None:
        if "in_flight" in head:
            line.in_flight = head["in_flight"]
        elif "closing" in head:
            line.closing = True
            line.writer.write(packed({"bye": True}))
        else:
            line.open.discard(head["id"])
            self._answered(head["id"], arrays, head.get("error"))

    async def _send(self, number: int, message: bytes, images: int) -> None:
        try:
            if (line := self._best()) is None:
                await self._find()  # it may have come since
                line = self._best()
        except OSError as error:
            log.warning("%s cannot be looked for: %s", self._model, error)
            line = None
        if line is None:
            self._answered(number, {}, Unavailable(self._model, "is not loaded on this server; try again later"))
        elif line.writer.transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            self._answered(number, {}, Overloaded("queue", "has more on its way than it reads; try again later"))
        else:
            line.open.add(number)
            line.in_flight += images
            line.writer.write(message)

    def _best(self) -> _Line | None:
        lines = [line for line in self._lines.values() if not line.closing]
        return min(lines, key=lambda line: line.in_flight, default=None)

    def _cancel(self, number: int) -> None:
        for line in self._lines.values():
            if number in line.open:
                line.writer.write(packed({"cancel": number}))
