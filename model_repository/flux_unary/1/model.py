"""flux behind one request, one response: plain `infer` over HTTP and gRPC refuses a decoupled model.

Each request is handed to `flux` from a pool of threads, so that `execute` returns at once and Triton can send the
next one; when all threads are waiting for flux, more are refused.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

WAITING_REQUESTS = 512
"""Requests handed to flux at a time, as many as one instance of it takes by default."""

POLL_S = 0.05
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
        self._pool = ThreadPoolExecutor(WAITING_REQUESTS, thread_name_prefix="flux_unary")
        self._room = threading.BoundedSemaphore(WAITING_REQUESTS)
        self._callers: set[Caller] = set()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watcher.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Nothing may be raised from here: Triton would close the senders of requests that are in flight."""
        for request in requests:
            caller = Caller(request.get_response_sender(), request.request_id() or uuid.uuid4().hex[:12])
            try:
                inner = _request_to_flux(request, caller)
                if not self._room.acquire(timeout=PATIENCE_S):
                    busy = f"FLUX_OVERLOADED: queue: {WAITING_REQUESTS} requests wait for flux; try again later"
                    caller.answer(_error_response(f"{busy} [request {caller.request_id}]", caller.request_id))
                    continue
                self._callers.add(caller)
                self._pool.submit(self._answer, inner, caller)
            except Exception as error:
                log.exception("request %s could not be taken", caller.request_id)
                caller.answer(_error_response(f"{type(error).__name__}: {error}", caller.request_id))

    def finalize(self) -> None:
        self._pool.shutdown(wait=True)
        self._stopping.set()
        self._watcher.join()

    def _answer(self, inner: Any, caller: Caller) -> None:
        try:
            response = _last_response(inner, caller.request_id)
        except Exception as error:  # flux is not loaded, its process died, or its queue refused
            response = _error_response(str(error), caller.request_id)
        self._callers.discard(caller)
        self._room.release()
        caller.answer(response)

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_S):
            for caller in list(self._callers):
                caller.pass_on_cancellation()


class Caller:
    """Whoever waits for one answer. Called by two threads."""

    def __init__(self, sender: Any, request_id: str) -> None:
        self.request_id = request_id
        self.token = uuid.uuid4().hex
        self._sender = sender
        self._open = threading.Lock()
        self._closed = False
        # Looked for by model.py of flux, in the process that draws: not every release of Triton can cancel a request
        # of one model from another, and a file can.
        self._cancel_file = Path(os.environ.get("TMPDIR", "/tmp")) / f"flux-cancel-{self.token}"

    def pass_on_cancellation(self) -> None:
        """Tells flux if the caller has left."""
        with self._open:  # asking a sender that has sent its last response kills the server process
            if not self._closed and self._sender.is_cancelled():
                self._cancel_file.touch()

    def answer(self, response: Any) -> None:
        with self._open:
            self._closed = True
            self._cancel_file.unlink(missing_ok=True)
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _request_to_flux(request: Any, caller: Caller) -> Any:
    """The same request for flux. Inputs are copied: their memory is Triton's own once `execute` returns.

    It asks for no more than the caller did, as what is left out of an answer on its way is freed without Python's lock
    before release 24.12, which sooner or later crashes this process (python_backend, pull request 390).
    """
    return pb_utils.InferenceRequest(
        model_name="flux",
        inputs=[pb_utils.Tensor(tensor.name(), tensor.as_numpy().copy()) for tensor in request.inputs()],
        requested_output_names=sorted(request.requested_output_names()),
        request_id=caller.request_id,
        parameters={**json.loads(request.parameters() or "{}"), "flux_cancel_token": caller.token},
        timeout=request.timeout(),
    )


def _last_response(inner: Any, request_id: str) -> Any:
    """The one response of flux that says something; the last only closes the stream."""
    last = None
    for response in inner.exec(decoupled=True):
        if response.has_error():
            last = _error_response(response.error().message(), request_id)
        elif response.output_tensors():
            last = pb_utils.InferenceResponse(output_tensors=response.output_tensors())
    return last or _error_response("flux ended without an answer", request_id)


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
