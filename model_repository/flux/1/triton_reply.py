"""The answer to one request, as Triton's tensors."""

from __future__ import annotations

import base64
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from fluxengine.errors import FluxError, Internal, OutOfMemory
from fluxengine.job import Phase
from fluxengine.outbox import Outbox
from fluxengine.pictures import Picture, encode_picture
from fluxengine.request import GenerateRequest
from fluxengine.ticket import Completed, Progress, Ticket

log = logging.getLogger("fluxengine")

# Names, as pb_utils has its classes only once this module is loaded.
TRITON_CODES = {
    "INVALID_ARGUMENT": "INVALID_ARG",
    "NOT_FOUND": "NOT_FOUND",
    "OVERLOADED": "UNAVAILABLE",
    "DEADLINE_EXCEEDED": "UNAVAILABLE",
    "CANCELLED": "CANCELLED",
    "OUT_OF_MEMORY": "UNAVAILABLE",
    "INTERNAL": "INTERNAL",
}

ON_DEVICE = (Phase.RUNNING, Phase.DECODING)

SHARED_MEMORY = "/dev/shm"
SPARE_BYTES = 2**26
"""For what others do there at the same time."""

APART_S = 0.05
"""Between the last two responses to flux_unary. Its process can lock itself up when the last comes just as a thread
wakes up for the one before."""

HEARTBEAT_S = 5.0
"""How often a request that wants progress is told that there is none. Over HTTP, Triton notices that a caller has left
only when it has something to write."""


class TritonReply:
    """Sends the answer to one request, from the outbox. It is one of `open_replies` until it is closed."""

    def __init__(
        self,
        request: GenerateRequest,
        sender: Any,
        cancel_token: str,
        outbox: Outbox,
        open_replies: set[TritonReply],
    ) -> None:
        self.ticket: Ticket | None = None
        """Between `taken` and `close`."""
        self._outbox = outbox
        self._open_replies = open_replies
        open_replies.add(self)
        self._request = request
        self._sender = sender
        self._cancel_file = cancel_file(cancel_token)
        self._open = threading.Lock()
        self._closed = False
        self._told_s = request.arrival_s
        self.looked_at_s = 0.0
        """When it was last asked for its caller. Used by one thread."""

    def taken(self, ticket: Ticket) -> None:
        """The engine has taken the request, and may have answered it by now.

        flux_unary is told at once, and which process draws its picture: until the first response, Triton keeps one of a
        few threads (32) for a request from another model, and sends the answers of that model by the same ones.
        """
        with self._open:
            if self._closed:
                return
            self.ticket = ticket
            if self._cancel_file is not None:
                try:
                    self._send(_event("taken", {"pid": os.getpid()}))
                except Exception:
                    log.exception("flux_unary could not be told of request %s", self._request.id)

    def is_drawn(self) -> bool:
        """Whether any of its pictures holds a place on the device."""
        ticket = self.ticket
        return ticket is not None and any(job.phase in ON_DEVICE for job in ticket.jobs)

    def is_cancelled(self) -> bool:
        """Whether the caller has left. Asking a sender that has sent its last response kills the server process."""
        self.looked_at_s = time.monotonic()
        with self._open:
            if self._closed:
                return False
            if self._cancel_file is not None and self._cancel_file.exists():
                return True
            return bool(self._sender.is_cancelled())

    def keep_alive(self) -> None:
        """Repeats where the request stands, if it wants to know and has not heard of it for long."""
        now_s, ticket = time.monotonic(), self.ticket
        if self._request.progress and ticket is not None and now_s - self._told_s >= HEARTBEAT_S:
            progress = ticket.progress({})
            if not ticket.ended:  # or there was nothing left to tell of
                self._told_s = now_s
                self._outbox.post(self, partial(self._send_heartbeat, progress, now_s))

    def close(self) -> None:
        """To be called before the last response is sent, or if there is none."""
        with self._open:
            self._closed = True
            self.ticket = None  # which refers to this
        self._open_replies.discard(self)

    def progress(self, progress: Progress) -> None:
        self._outbox.post(self, partial(self._send_progress, progress))

    def done(self, completed: Completed) -> None:
        self._outbox.post(self, partial(self._end, self._send_done, completed))

    def error(self, error: FluxError) -> None:
        self._outbox.post(self, partial(self._end, self._send_failure, error))

    def _end(self, send: Callable[[Any], None], outcome: object) -> None:
        """Sends the last response. The engine may refer to this for longer, but a sender that is there at the end of
        the process, when the memory it shares with Triton is gone, crashes it."""
        try:
            send(outcome)
        finally:
            self._sender = None

    def _send_heartbeat(self, progress: Progress, seen_s: float) -> None:
        if not self._closed and self._told_s == seen_s:  # nothing newer has been sent since
            self._send_progress(progress)

    def _send_progress(self, progress: Progress) -> None:
        self._told_s = time.monotonic()
        count = len(self._request.rows)
        steps = [_column("step", progress.steps, np.int32), _column("total_steps", progress.totals, np.int32)]
        tensors = [_column("event", ["progress"] * count, np.object_), *steps]
        self._send(tensors)
        if any(preview is not None for preview in progress.previews):
            files = [b"" if preview is None else self._file(preview, "jpeg") for preview in progress.previews]
            image = pb_utils.Tensor("image", np.array(files, np.object_).reshape(count, -1))
            event = _column("event", ["preview"] * count, np.object_)
            self._send([event, image, *steps])

    def _send_done(self, completed: Completed) -> None:
        try:
            tensors = self._final_tensors(completed)
        except Exception as error:
            log.exception("the answer to request %s could not be made", self._request.id)
            self._send_failure(Internal("answer", f"{type(error).__name__}: {error}"))
            return
        self.close()
        if _has_room(sum(picture.nbytes for picture in completed.pictures)):  # files are hardly larger than that
            self._send(tensors, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        # A last response that does not fit into shared memory would leave its caller waiting for ever: Triton has
        # closed the sender by then. So this one is not the last.
        try:
            self._send(tensors)
        except Exception as error:
            problem = f"does not fit into {SHARED_MEMORY}: {error}; a container gets more by --shm-size"
            self._send_error(OutOfMemory("answer", problem))
            return
        if self._cancel_file is not None:
            time.sleep(APART_S)
        self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _send(self, tensors: Sequence[Any], flags: int = 0) -> None:
        """Sends one response.

        Whoever calls this holds on to the tensors meanwhile: before release 24.12, Triton drops those that the caller
        did not ask for without holding Python's lock, and a tensor that nobody else holds is freed then, which sooner
        or later crashes this process (python_backend, pull request 390).
        """
        self._sender.send(pb_utils.InferenceResponse(tensors), flags=flags)

    def _send_failure(self, error: FluxError) -> None:
        self.close()
        self._send_error(error)

    def _send_error(self, error: FluxError) -> None:
        send_error(self._sender, self._request.id, error, as_event=self._cancel_file is not None)

    def _final_tensors(self, completed: Completed) -> list[Any]:
        request = self._request
        count = len(request.rows)
        if request.output_format == "raw":
            pixels = np.stack(completed.pictures)  # [N·n, H, W, 3]
            pictures = pb_utils.Tensor("pixels", pixels.reshape(count, -1, *pixels.shape[1:]))
        else:
            files = [self._file(picture, request.output_format) for picture in completed.pictures]
            pictures = pb_utils.Tensor("image", np.array(files, np.object_).reshape(count, -1))
        total_ms = round((time.monotonic() - request.arrival_s) * 1e3, 2)
        infos = [json.dumps({**info, "total_ms": total_ms}) for info in completed.infos]
        steps = [row.num_inference_steps - row.skipped_steps for row in request.rows]
        return [
            pictures,
            pb_utils.Tensor("seed", np.array(completed.seeds, np.int64).reshape(count, -1)),
            _column("info", infos, np.object_),
            _column("event", ["final"] * count, np.object_),
            _column("step", steps, np.int32),
            _column("total_steps", steps, np.int32),
        ]

    def _file(self, picture: Picture, output_format: str) -> bytes:
        file = encode_picture(picture, output_format)
        return base64.b64encode(file) if self._request.base64 else file


def cancel_file(token: str) -> Path | None:
    """The file by which flux_unary, in another process, says that its caller left. None without a token of its kind."""
    if len(token) != 32 or not token.isalnum():
        return None
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"flux-cancel-{token}"


def _has_room(size: int) -> bool:
    """Whether so many bytes surely fit into the memory that Triton shares with this process."""
    try:
        free = os.statvfs(SHARED_MEMORY)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize > 2 * size + SPARE_BYTES


def _column(name: str, values: Sequence[object], dtype: type) -> Any:
    return pb_utils.Tensor(name, np.array(values, dtype).reshape(-1, 1))


def send_error(sender: Any, request_id: str, error: FluxError, *, as_event: bool) -> None:
    """Sends it as the last response. As an event to flux_unary: between models, Triton loses an error that is not the
    first response, and may deliver the first to another request."""
    message = error.message(request_id)
    log.info("%s", message)
    if as_event:
        tensors = _event("error", {"message": message})  # held while they are sent, as in `_send`
        response = pb_utils.InferenceResponse(tensors)
    else:
        code = getattr(pb_utils.TritonError, TRITON_CODES[error.code])
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _event(name: str, info: dict[str, object]) -> list[Any]:
    """One for flux_unary itself, which reads one row of it."""
    return [_column("event", [name], np.object_), _column("info", [json.dumps(info)], np.object_)]
