"""flux behind one request, one response: plain `infer` over HTTP and gRPC refuses a decoupled model.

Requests go to the processes of `flux` by sockets of their own (local_wire.py of flux says why), and so do cancellations
and answers. `execute` returns at once, so that Triton can send the next request; flux refuses what is too much.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any

import beside_flux  # noqa: F401  # before the modules that are written there
import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils
from callers import POLL_S, find_leavers
from last_response import LastResponse
from local_client import LocalClient
from local_wire import Arrays, packed
from triton_request import parameters, request_id

from fluxengine.errors import FluxError, Internal
from fluxengine.waiting.outbox import Outbox

log = logging.getLogger("flux_unary")


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        self._numbers = count()
        self._callers: dict[int, Caller] = {}
        self._outbox = Outbox(threads=2)
        self._flux = LocalClient(args["model_name"].removesuffix("_unary"), self._answered)
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watcher.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Nothing may be raised from here: Triton would close the senders of requests that are in flight."""
        for request in requests:
            number = next(self._numbers)
            its_id, wanted = request_id(request), request.requested_output_names()
            caller = Caller(request.get_response_sender(), its_id, wanted, self._outbox)
            self._callers[number] = caller
            try:
                inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
                head = {
                    "id": number,
                    "request_id": caller.request_id,
                    "parameters": parameters(request),
                    "timeout_us": request.timeout(),
                }
                self._flux.send(number, packed(head, inputs), max(map(len, inputs.values()), default=1))
            except FluxError as error:
                self._answered(number, {}, error)
            except Exception as error:
                log.exception("request %s could not be taken", caller.request_id)
                self._answered(number, {}, Internal("server", f"{type(error).__name__}: {error}"))

    def finalize(self) -> None:
        """Triton calls this once all requests are answered."""
        self._stopping.set()
        self._watcher.join()
        self._outbox.close()
        self._flux.close()

    def _answered(self, number: int, arrays: Arrays, error: str | FluxError | None) -> None:
        if (caller := self._callers.pop(number, None)) is not None:
            self._outbox.post_end(caller, partial(caller.answer, arrays, error))

    def _watch(self) -> None:
        """Tells flux of callers that left."""
        while not self._stopping.wait(POLL_S):
            numbers = {caller: number for number, caller in list(self._callers.items())}
            for _ in find_leavers([caller for caller in numbers if not caller.left], Caller.has_left):
                pass  # it is marked
            for caller, number in numbers.items():
                if caller.left:
                    self._flux.cancel(number)  # again and again, as its request may have been on its way


class Caller:
    """Whoever waits for one answer."""

    is_drawn = False  # as far as is known here

    def __init__(self, sender: Any, request_id: str, wanted: Sequence[str], outbox: Outbox) -> None:
        self.request_id = request_id
        self.left = False
        self.order = self.looked_at_s = time.monotonic()
        self._sender = sender
        self._wanted = wanted
        self._last = LastResponse(sender, request_id, outbox, self, self._close, once=True)
        self._open = threading.Lock()
        self._closed = False

    def has_left(self) -> bool:
        self.looked_at_s = time.monotonic()
        with self._open:  # asking a sender that has sent its last response kills the server process
            self.left = not self._closed and bool(self._sender.is_cancelled())
        return self.left

    def answer(self, arrays: Arrays, error: str | FluxError | None) -> None:
        """Called from the outbox. An error is one of this model, or the message of one of flux."""
        if isinstance(error, FluxError):
            self._last.refuse(error)
        elif error is not None:
            code = re.match(r"FLUX_([A-Z_]+): ", error)
            self._last.send_failure(error, code[1] if code else "INTERNAL")
        else:
            try:
                # No more than the caller asked for, and held while it is sent: see TritonReply._send of flux.
                tensors = [pb_utils.Tensor(name, array) for name, array in arrays.items() if name in self._wanted]
            except Exception as problem:
                log.exception("the answer to request %s could not be made", self.request_id)
                self._last.refuse(Internal("answer", f"{type(problem).__name__}: {problem}"))
                return
            self._last.send(partial(pb_utils.InferenceResponse, tensors), sum(map(_size, arrays.values())))

    def _close(self) -> None:
        with self._open:
            self._closed, self._sender = True, None


def _size(array: npt.NDArray[Any]) -> int:
    return sum(map(len, array.reshape(-1))) if array.dtype == np.object_ else array.nbytes
