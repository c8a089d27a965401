"""flux's end of the socket to flux_unary: requests and senders that look like Triton's own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt
import triton_python_backend_utils as pb_utils
from local_wire import Arrays, is_private, packed, read_message, socket_folder

from fluxengine.errors import ConfigError

log = logging.getLogger("fluxengine")

TELL_S = 0.1
"""How often flux_unary is told how much is in flight here."""
BYE_S = 5.0
"""A process of flux_unary that does not say bye by then sends nothing more either."""


class LocalTensor:
    def __init__(self, name: str, array: npt.NDArray[Any]) -> None:
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> npt.NDArray[Any]:
        return self._array


class LocalSender:
    """Keeps the last response until the end is told. `is_cancelled` costs nothing, unlike that of Triton's senders."""

    def __init__(self, send: Callable[[bytes], None], number: int) -> None:
        self.cancelled = False
        self._send = send
        self._number = number
        self._message = packed({"id": number, "error": "FLUX_INTERNAL: flux: gave no answer"})

    def is_cancelled(self) -> bool:
        return self.cancelled

    def send(self, response: Any = None, flags: int = 0) -> None:
        if response is not None and response.has_error():
            self._message = packed({"id": self._number, "error": response.error().message()})
        elif response is not None:
            arrays = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
            self._message = packed({"id": self._number}, arrays)
        if flags & pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL:
            self._send(self._message)


class LocalRequest:
    def __init__(self, head: Mapping[str, Any], arrays: Arrays, sender: LocalSender) -> None:
        self._head = head
        self._arrays = arrays
        self._sender = sender

    def request_id(self) -> str:
        return str(self._head["request_id"])

    def parameters(self) -> str:
        return str(self._head["parameters"])

    def timeout(self) -> int:
        return int(self._head["timeout_us"])

    def inputs(self) -> list[LocalTensor]:
        return [LocalTensor(name, array) for name, array in self._arrays.items()]

    def get_response_sender(self) -> LocalSender:
        return self._sender


class _Connection:
    """To one process of flux_unary. Used by the loop alone."""

    def __init__(self, writer: asyncio.StreamWriter, task: asyncio.Task[None] | None) -> None:
        self.writer = writer
        self.task = task
        self.open: dict[int, LocalSender] = {}
        self.bye = asyncio.Event()
        self.done = asyncio.Event()
        """Nothing more will come, and all is answered; or the process has ended."""

    def answer(self, number: int, message: bytes) -> None:
        if self.open.pop(number, None) is not None:
            self.writer.write(message)
        self.look()

    def look(self) -> None:
        if self.bye.is_set() and not self.open:
            self.done.set()


class LocalServer:
    """Takes requests of flux_unary from its start to its close, by a thread of its own."""

    def __init__(self, model: str, take: Callable[[LocalRequest], None], in_flight: Callable[[], int]) -> None:
        """`take` answers by the request's sender, whatever happens, and must not block for long."""
        self._take = take
        self._in_flight = in_flight
        self._path = socket_folder() / f"{model}-{os.getpid()}.sock"
        self._connections: set[_Connection] = set()
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local-server", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def close(self) -> None:
        """Returns when all requests that flux_unary has sent here are answered; it sends further ones elsewhere."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        folder, draft = self._path.parent, self._path.with_suffix(".draft")
        while True:
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.exists() and not is_private(folder):
                raise ConfigError(f"{folder}, for sockets, is not a folder of this user's alone: remove it")
            try:
                self._server = await asyncio.start_unix_server(self._serve, draft)
                draft.rename(self._path)  # whoever finds it can connect
                break
            except FileNotFoundError:  # another process took the last socket out just now, and the folder with it
                await asyncio.sleep(0)
        self._telling = asyncio.ensure_future(self._tell())

    async def _close(self) -> None:
        self._closing = True
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # there are others in it
            self._path.parent.rmdir()
        self._server.close()
        for connection in self._connections:
            connection.writer.write(packed({"closing": True}))
        for connection in list(self._connections):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(connection.bye.wait(), BYE_S)
            connection.bye.set()
            connection.look()
            await connection.done.wait()
            connection.writer.close()
            if connection.task is not None and not (await asyncio.wait([connection.task], timeout=BYE_S))[0]:
                connection.writer.transport.abort()  # what was written has not been read
                await asyncio.wait([connection.task])
        self._telling.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer, asyncio.current_task())
        self._connections.add(connection)
        if self._closing:
            writer.write(packed({"closing": True}))
        try:
            while True:
                self._heard(connection, *await read_message(reader))
        except (asyncio.IncompleteReadError, OSError):
            pass  # the other process has ended, or this is closing
        except Exception:
            log.exception("the connection to flux_unary broke")
        finally:
            for sender in connection.open.values():
                sender.cancelled = True
            connection.open.clear()
            connection.bye.set()
            connection.done.set()
            self._connections.discard(connection)
            writer.close()

    def _heard(self, connection: _Connection, head: dict[str, Any], arrays: Arrays) -> None:
        if "bye" in head:
            connection.bye.set()
            connection.look()
        elif "cancel" in head:
            if sender := connection.open.get(head["cancel"]):
                sender.cancelled = True
        else:
            self._begin(connection, head, arrays)

    def _begin(self, connection: _Connection, head: dict[str, Any], arrays: Arrays) -> None:
        number = head["id"]

        def send(message: bytes) -> None:
            self._loop.call_soon_threadsafe(connection.answer, number, message)

        connection.open[number] = sender = LocalSender(send, number)
        self._take(LocalRequest(head, arrays, sender))

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            message = packed({"in_flight": self._in_flight()})
            for connection in self._connections:
                connection.writer.write(message)
