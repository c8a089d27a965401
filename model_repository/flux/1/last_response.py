"""How the last response of a request leaves: so that its caller gets it, or an error, even if memory is short."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import triton_python_backend_utils as pb_utils
from local_server import LocalSender

from fluxengine.errors import FluxError, OutOfMemory
from fluxengine.waiting.outbox import Outbox

log = logging.getLogger("fluxengine")

# Names, as pb_utils has its classes only once this module is loaded.
TRITON_CODES = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "NOT_FOUND": "NOT_FOUND",
    "OVERLOADED": "UNAVAILABLE",
    "UNAVAILABLE": "UNAVAILABLE",
    "DEADLINE_EXCEEDED": "UNAVAILABLE",
    "CANCELLED": "CANCELLED",
    "OUT_OF_MEMORY": "UNAVAILABLE",
    "INTERNAL": "INTERNAL",
}

SHARED_MEMORY = "/dev/shm"
PATIENCE_S = 10.0
"""For shared memory that others hold at the moment."""
ERROR_BYTES = 2**20
"""What has to be free for an error, whose end is told with it: Triton loses an error that is followed by an end."""
ERROR_PATIENCE_S = 1.0
PAUSE_S = 0.05


class LastResponse:
    """Of one request. Its methods are called from the outbox, but for `refuse`.

    The end of a stream is a response by itself. If the answer itself said that it is the last and could not be sent,
    for want of shared memory, its caller would wait for ever: Triton has closed the sender by then.
    """

    def __init__(
        self,
        sender: Any,
        request_id: str,
        outbox: Outbox,
        key: object,
        close: Callable[[], None] = lambda: None,
        *,
        once: bool = False,
    ) -> None:
        """`key` is the request's in the outbox. `close` is called before the end is told: who asks a sender for its
        caller after that kills the server. `once`: the model sends one response in all (it is not decoupled)."""
        self._sender = sender
        self._request_id = request_id
        self._outbox = outbox
        self._key = key
        self._close = close
        self._once = once
        self._is_local = isinstance(sender, LocalSender)

    def refuse(self, error: FluxError) -> None:
        """Answers a request with an error, whose traceback, with all that it holds, is not kept until then."""
        message = error.message(self._request_id)
        self._outbox.post_end(self._key, partial(self.send_failure, message, error.code))

    def send(self, response: Callable[[], Any], size: int) -> None:
        """`response` makes it anew for each try; whoever made its tensors holds them. `size`: bytes, about."""
        if self._once:
            self._send_once(response, size)
        else:
            self._try(response, size, time.monotonic())

    def send_failure(self, message: str, code: str) -> None:
        """A message of the form of FluxError's, and its code."""
        log.info("%s", message)
        self._fail(message, code, time.monotonic())

    def _try(self, response: Callable[[], Any], size: int, since_s: float) -> None:
        try:
            self._sender.send(response())
        except Exception as error:
            memory = _shared_memory()
            if size <= memory.total and time.monotonic() - since_s < PATIENCE_S:
                self._again(partial(self._try, response, size, since_s))
                return
            what = f"does not fit into {SHARED_MEMORY}" if size > memory.free else "could not be sent"
            failure = OutOfMemory("answer", f"{what}: {error}; a container gets more by --shm-size")
            self.send_failure(failure.message(self._request_id), failure.code)
            return
        self._end()

    def _send_once(self, response: Callable[[], Any], size: int) -> None:
        """Triton counts a response before it looks for memory, so there is no second try. And it is sent apart from
        the end only where it has to be: before release 25.06, a caller that leaves between the two kills the server.
        """
        if _shared_memory().free >= size + ERROR_BYTES:
            self._end(response())
            return
        try:
            self._sender.send(response())  # into what Triton holds already
        except Exception as error:
            log.error("request %s: its answer does not fit into %s: %s", self._request_id, SHARED_MEMORY, error)
        self._end()  # without an answer, the caller hears from Triton that there is none

    def _fail(self, message: str, code: str, since_s: float) -> None:
        is_short = not self._is_local and _shared_memory().free < ERROR_BYTES
        if is_short and time.monotonic() - since_s < ERROR_PATIENCE_S:
            self._again(partial(self._fail, message, code, since_s))
            return
        triton_code = getattr(pb_utils.TritonError, TRITON_CODES.get(code, "INTERNAL"))
        self._end(pb_utils.InferenceResponse(error=pb_utils.TritonError(message, triton_code)))

    def _again(self, action: Callable[[], None]) -> None:
        time.sleep(PAUSE_S)
        self._outbox.post_end(self._key, action)  # behind those of others

    def _end(self, *response: Any) -> None:
        self._close()
        try:
            self._sender.send(*response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        finally:
            # The engine may refer to this for longer, but a sender that is there at the end of the process, when the
            # memory it shares with Triton is gone, crashes it.
            self._sender = None


@dataclass(frozen=True, slots=True)
class _Memory:
    """Bytes."""

    total: float
    free: float


def _shared_memory() -> _Memory:
    try:
        memory = os.statvfs(SHARED_MEMORY)
    except OSError:
        return _Memory(math.inf, math.inf)
    return _Memory(memory.f_blocks * memory.f_frsize, memory.f_bavail * memory.f_frsize)
