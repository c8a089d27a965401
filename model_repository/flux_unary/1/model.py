"""flux behind one request, one response: plain `infer` over HTTP and gRPC refuses a decoupled model.

Each request is handed to `flux` from a pool of threads, so that `execute` returns at once and Triton can send the
next one; once all threads wait, `execute` waits as well, and requests stay in Triton's queue.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

WAITING_REQUESTS = 128
"""Requests handed to flux at a time: more than an instance of it takes, so that its queue, limits and metrics act."""

POLL_S = 0.05

OUTPUTS = ["image", "pixels", "seed", "info"]

log = logging.getLogger("flux_unary")


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        self._pool = ThreadPoolExecutor(WAITING_REQUESTS, thread_name_prefix="flux_unary")
        self._room = threading.BoundedSemaphore(WAITING_REQUESTS)
        self._in_flight: dict[str, Any] = {}  # response sender by cancel token
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._watcher.start()

    def execute(self, requests: Sequence[Any]) -> None:
        """Nothing may be raised from here: Triton would close the senders of requests that are in flight."""
        for request in requests:
            sender = request.get_response_sender()
            request_id = request.request_id() or uuid.uuid4().hex[:12]
            try:
                token = uuid.uuid4().hex
                inner = _request_to_flux(request, request_id, token)
                self._room.acquire()
                self._pool.submit(self._answer, inner, request_id, token, sender)
            except Exception as error:
                log.exception("request %s could not be taken", request_id)
                _send(sender, _error_response(f"{type(error).__name__}: {error}", request_id))

    def finalize(self) -> None:
        self._pool.shutdown(wait=True)
        self._stopping.set()
        self._watcher.join()

    def _answer(self, inner: Any, request_id: str, token: str, sender: Any) -> None:
        self._in_flight[token] = sender
        try:
            response = _last_response(inner, request_id)
        except Exception as error:  # flux is not loaded, its process died, or its queue refused
            response = _error_response(str(error), request_id)
        finally:
            del self._in_flight[token]
            _cancel_file(token).unlink(missing_ok=True)
            self._room.release()
        _send(sender, response)

    def _watch(self) -> None:
        """Tells flux of callers that left. Not every release can cancel a request between models; a file can."""
        while not self._stopping.wait(POLL_S):
            for token, sender in list(self._in_flight.items()):
                if sender.is_cancelled():
                    _cancel_file(token).touch()
                    if token not in self._in_flight:  # answered meanwhile: nobody would remove the file
                        _cancel_file(token).unlink(missing_ok=True)


def _request_to_flux(request: Any, request_id: str, token: str) -> Any:
    """The same request for flux. Inputs are copied: their memory is Triton's own once `execute` returns."""
    parameters = json.loads(request.parameters() or "{}")
    return pb_utils.InferenceRequest(
        model_name="flux",
        inputs=[pb_utils.Tensor(tensor.name(), tensor.as_numpy().copy()) for tensor in request.inputs()],
        requested_output_names=OUTPUTS,
        request_id=request_id,
        parameters={**parameters, "flux_cancel_token": token},
        timeout=request.timeout(),
    )


def _last_response(inner: Any, request_id: str) -> Any:
    """The one response of flux that says something; the last only closes the stream."""
    last = None
    for response in inner.exec(decoupled=True):
        if response.has_error():
            last = _error_response(response.error().message(), request_id, response.error().code())
        elif response.output_tensors():
            last = pb_utils.InferenceResponse(output_tensors=response.output_tensors())
    return last or _error_response("flux ended without an answer", request_id)


def _error_response(message: str, request_id: str, code: Any = None) -> Any:
    """Errors of flux as they are; those of Triton itself in the same form."""
    if "FLUX_" not in message:
        if "maximum queue size" in message:
            message, code = f"FLUX_OVERLOADED: queue: {message}", pb_utils.TritonError.UNAVAILABLE
        elif "timeout expired" in message:
            message, code = f"FLUX_DEADLINE_EXCEEDED: timeout: {message}", pb_utils.TritonError.UNAVAILABLE
        else:
            message, code = f"FLUX_INTERNAL: flux: {message}", pb_utils.TritonError.INTERNAL
        message += f" [request {request_id}]"
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message[message.index("FLUX_") :], code))


def _send(sender: Any, response: Any) -> None:
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _cancel_file(token: str) -> Path:
    """Looked for by model.py of flux, in the process that draws."""
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"flux-cancel-{token}"
