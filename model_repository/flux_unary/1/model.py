"""flux behind one request, one response: plain `infer` over HTTP and gRPC refuses a decoupled model.

Each request is handed to `flux` by a thread of its own, so that `execute` returns at once and Triton can send the next
one; when too many wait for flux, more are refused. Not by a pool: a thread whose flux died waits for ever, and must
neither keep a place nor be waited for at the end.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import select
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

WAITING_REQUESTS = 512
"""Requests handed to flux at a time, as many as one instance of it takes by default."""

POLL_S = 0.05
ANSWERED_S = 1.0
"""By then what flux has sent before its process ended has been read."""
LET_GO_S = 1.0
"""By then Triton has let go of the responses between models."""
PATIENCE_S = 0.05

# The codes of flux, as Triton's. Names, as pb_utils has its classes only once this module is loaded.
TRITON_CODES = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "NOT_FOUND": "NOT_FOUND",
    "OVERLOADED": "UNAVAILABLE",
    "DEADLINE_EXCEEDED": "UNAVAILABLE",
    "CANCELLED": "CANCELLED",
    "OUT_OF_MEMORY": "UNAVAILABLE",
    "INTERNAL": "INTERNAL",
}

log = logging.getLogger("flux_unary")


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        self._room = threading.BoundedSemaphore(WAITING_REQUESTS)
        self._callers: set[Caller] = set()
        self._processes = Processes()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watcher.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Nothing may be raised from here: Triton would close the senders of requests that are in flight."""
        for request in requests:
            caller = Caller(request.get_response_sender(), _request_id(request))
            try:
                inner = _request_to_flux(request, caller)
                wanted = request.requested_output_names()
                if not self._room.acquire(timeout=PATIENCE_S):
                    busy = f"FLUX_OVERLOADED: queue: {WAITING_REQUESTS} requests wait for flux; try again later"
                    self._answer(caller, _error_response(f"{busy} [request {caller.request_id}]", caller.request_id))
                    continue
                self._callers.add(caller)
                threading.Thread(target=self._ask, args=(inner, wanted, caller), name="caller", daemon=True).start()
            except UnicodeDecodeError as error:
                text = f"FLUX_INVALID_ARGUMENT: parameters: must be UTF-8 text ({error.reason})"
                self._answer(caller, _error_response(f"{text} [request {caller.request_id}]", caller.request_id))
            except Exception as error:
                log.exception("request %s could not be taken", caller.request_id)
                self._answer(caller, _error_response(f"{type(error).__name__}: {error}", caller.request_id))

    def finalize(self) -> None:
        while self._callers:
            time.sleep(POLL_S)
        self._stopping.set()
        self._watcher.join()

    def _ask(self, inner: Any, wanted: set[str], caller: Caller) -> None:
        responses = None
        try:
            responses = inner.exec(decoupled=True)
            response = self._last_response(responses, wanted, caller)
        except Exception as error:  # flux is not loaded, its process died, or its queue refused
            response = _error_response(str(error), caller.request_id)
        # Triton itself lets go of the responses only now, in a thread of its own and without Python's lock: if nobody
        # held them any longer, that would crash this process sooner or later. The same thread asks for the caller, so
        # that it has been done when the caller has been asked for.
        if not caller.look():
            time.sleep(LET_GO_S)
        self._answer(caller, response)

    def _last_response(self, responses: Any, wanted: set[str], caller: Caller) -> Any:
        """The answer of flux. Before it comes word that the request was taken; after it may come an empty response."""
        last = None
        for response in responses:
            if response.has_error():
                last = _error_response(response.error().message(), caller.request_id)
            elif tensors := {tensor.name(): tensor for tensor in response.output_tensors()}:
                event = tensors["event"].as_numpy()[0, 0]
                info = json.loads(tensors["info"].as_numpy()[0, 0])
                if event == b"taken":
                    caller.pid = info["pid"]
                    self._processes.add(caller.pid)
                elif event == b"error":
                    last = _error_response(info["message"], caller.request_id)
                else:
                    # No more than the caller asked for. What Triton leaves out on the way is freed without Python's
                    # lock before release 24.12 (python_backend, pull request 390).
                    last = pb_utils.InferenceResponse([tensors[name] for name in tensors if name in wanted])
        return last or _error_response("is not ready, or gave no answer", caller.request_id)

    def _answer(self, caller: Caller, response: Any) -> None:
        """Whoever comes second does nothing."""
        if caller.close():
            if caller in self._callers:
                self._room.release()
            try:
                caller.send(response)
            except Exception:
                log.exception("request %s could not be answered", caller.request_id)
            self._callers.discard(caller)

    def _watch(self) -> None:
        """Tells flux of callers that left, and callers that the process of flux has died, which Triton does not."""
        while not self._stopping.wait(POLL_S):
            self._processes.look()
            for caller in list(self._callers):
                caller.look()
                if caller.pid is not None and self._processes.ended(caller.pid):
                    self._answer(caller, _error_response("its process died; send the request again", caller.request_id))


class Processes:
    """Those of flux that have taken requests, and what became of them. Used by several threads."""

    def __init__(self) -> None:
        self._changed = threading.Lock()
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        """The process by its descriptor, which is readable when it has ended."""
        self._ended_s: dict[int, float] = {}

    def add(self, pid: int) -> None:
        with self._changed:
            if pid in self._watched.values():
                return
            self._ended_s.pop(pid, None)
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                self._ended_s[pid] = time.monotonic()
            except (OSError, AttributeError) as error:  # an old kernel, a strict container, some builds of Python
                log.warning("the process of flux cannot be watched (%s): if it dies, callers are not told", error)
                self._watched[-pid] = pid  # not to say so again
            else:
                self._watched[descriptor] = pid
                self._poll.register(descriptor, select.POLLIN)

    def look(self) -> None:
        with self._changed:
            for descriptor, _ in self._poll.poll(0):
                self._poll.unregister(descriptor)
                os.close(descriptor)
                self._ended_s[self._watched.pop(descriptor)] = time.monotonic()

    def ended(self, pid: int) -> bool:
        """Whether it did so long ago that what it sent before has been read."""
        return self._ended_s.get(pid, math.inf) < time.monotonic() - ANSWERED_S


class Caller:
    """Whoever waits for one answer. Called by two threads."""

    def __init__(self, sender: Any, request_id: str) -> None:
        self.request_id = request_id
        self.pid: int | None = None
        """The process of flux that has taken the request."""
        self.token = uuid.uuid4().hex
        self._sender = sender
        self._open = threading.Lock()
        self._closed = False
        self._left = False
        # Looked for by model.py of flux, in the process that draws: not every release of Triton can cancel a request
        # of one model from another, and a file can.
        self._cancel_file = Path(os.environ.get("TMPDIR", "/tmp")) / f"flux-cancel-{self.token}"

    def look(self) -> bool:
        """Asks whether the caller has left, and tells flux if so. False if there was no need to ask."""
        with self._open:  # asking a sender that has sent its last response kills the server process
            if self._closed or self._left:
                return False
            self._left = self._sender.is_cancelled()
            if self._left:
                with _logged(self.request_id):
                    self._cancel_file.touch()
            return True

    def close(self) -> bool:
        """To be called before the answer is sent. False if that was done before."""
        with self._open:
            first, self._closed = not self._closed, True
            with _logged(self.request_id):
                self._cancel_file.unlink(missing_ok=True)
        return first

    def send(self, response: Any) -> None:
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


@contextmanager
def _logged(request_id: str) -> Iterator[None]:
    """A disk that is full or read-only may keep flux from knowing that a caller left, but harms nobody else."""
    try:
        yield
    except OSError as error:
        log.warning("flux cannot be told whether the caller of %s left: %s", request_id, error)


def _request_id(request: Any) -> str:
    """That of the request, or a new one if it has none, or one that is not UTF-8 and so cannot be read."""
    try:
        own = str(request.request_id())
    except UnicodeDecodeError:
        own = ""
    return own or uuid.uuid4().hex[:12]


def _request_to_flux(request: Any, caller: Caller) -> Any:
    """The same request for flux. Inputs are copied: their memory is Triton's own once `execute` returns."""
    return pb_utils.InferenceRequest(
        model_name="flux",
        inputs=[pb_utils.Tensor(tensor.name(), tensor.as_numpy().copy()) for tensor in request.inputs()],
        requested_output_names=sorted({*request.requested_output_names(), "event", "info"}),
        request_id=caller.request_id,
        parameters={**json.loads(request.parameters() or "{}"), "flux_cancel_token": caller.token},
        timeout=request.timeout(),
    )


def _error_response(message: str, request_id: str) -> Any:
    """Errors of flux as they are, those of Triton itself in the same form. The code is read from the text, as not
    every release of Triton keeps it between models."""
    found = re.search(r"FLUX_([A-Z_]+): .*", message, re.DOTALL)
    if found is None:
        if "maximum queue size" in message:
            text = f"FLUX_OVERLOADED: queue: {message}"
        elif "timeout expired" in message:
            text = f"FLUX_DEADLINE_EXCEEDED: timeout: {message}"
        else:
            text = f"FLUX_INTERNAL: flux: {message}"
        return _error_response(f"{text} [request {request_id}]", request_id)
    code = getattr(pb_utils.TritonError, TRITON_CODES.get(found[1], "INTERNAL"))
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(found[0], code))
