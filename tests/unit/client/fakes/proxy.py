"""Stands in for a proxy of gRPC that answers in place of the server, in the frames of HTTP/2."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

PREFACE_BYTES = 24
DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
ACK, END_STREAM, END_HEADERS = 1, 1, 4

Answer = Callable[[int], bytes]
"""From the number of a stream whose request has come, the frames to answer with."""


def reset(code: int) -> Answer:
    return lambda stream: _frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def status(number: int) -> Answer:
    """A response of HTTP without a body: the literal field 8 of HPACK's static table is `:status`."""
    return lambda stream: _frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x08\x03" + str(number).encode())


class Proxy:
    """Answers each request after `wait_s`."""

    def __init__(self, answer: Answer, wait_s: float = 0.0) -> None:
        self._answer = answer
        self._wait_s = wait_s
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.requests = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self._listener.getsockname()[1]}"

    def stop(self) -> None:
        self._closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as coming:
            connection.sendall(_frame(SETTINGS, 0, 0))
            coming.read(PREFACE_BYTES)
            while len(head := coming.read(9)) == 9:
                coming.read(int.from_bytes(head[:3], "big"))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                if kind == SETTINGS and not flags & ACK:
                    connection.sendall(_frame(SETTINGS, ACK, 0))
                elif kind == DATA and flags & END_STREAM:
                    self.requests += 1
                    self._closing.wait(self._wait_s)
                    connection.sendall(self._answer(stream))


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload
