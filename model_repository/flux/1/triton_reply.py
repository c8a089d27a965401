"""The answer to one request, as Triton's tensors."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from last_response import LastResponse
from local_server import LocalSender

from fluxengine.errors import FluxError, Internal
from fluxengine.job import Phase, Ticket
from fluxengine.reply import Completed, Progress
from fluxengine.waiting.outbox import Outbox
from fluxengine.wire.picture_files import Picture, encode_picture
from fluxengine.wire.request import GenerateRequest

log = logging.getLogger("fluxengine")

ON_DEVICE = (Phase.RUNNING, Phase.DECODING)

HEARTBEAT_S = 5.0
"""How often a request that wants progress is told that there is none. Over HTTP, Triton notices that a caller has left
only when it has something to write."""


class TritonReply:
    """Sends the answer to one request, from the outbox. It is one of `open_replies` until it is closed."""

    def __init__(
        self,
        request: GenerateRequest,
        sender: Any,
        outbox: Outbox,
        open_replies: set[TritonReply],
    ) -> None:
        self.ticket: Ticket | None = None
        """Between `taken` and `close`."""
        self._outbox = outbox
        self._open_replies = open_replies
        open_replies.add(self)
        self._request = request.without_files()
        self._sender = sender
        self._last = LastResponse(sender, request.id, outbox, self, self.close)
        self._open = threading.Lock()
        """Held while Triton is asked for the caller, so nothing that the engine calls may want it."""
        self._closed = False
        self._news = threading.Lock()
        """Guards what comes next."""
        self._unsent: Progress | None = None
        """The newest progress, with the newest previews, until it is on its way."""
        self._latest: Progress | None = None
        self._told_s = request.arrival_s
        self.is_local = isinstance(sender, LocalSender)
        """Then it costs nothing to ask for its caller."""
        self.looked_at_s = 0.0
        """When it was last asked for its caller. Used by one thread."""

    def taken(self, ticket: Ticket) -> None:
        """The engine has taken the request, and may have answered it by now."""
        with self._open:
            if not self._closed:
                self.ticket = ticket

    @property
    def is_drawn(self) -> bool:
        """Whether any of its pictures holds a place on the device."""
        ticket = self.ticket
        return ticket is not None and any(job.phase in ON_DEVICE for job in ticket.jobs)

    @property
    def order(self) -> float:
        """Who is lower is drawn sooner."""
        ticket = self.ticket
        return min((job.order for job in ticket.jobs), default=0.0) if ticket is not None else 0.0

    def is_cancelled(self) -> bool:
        """Whether the caller has left. Asking a sender that has sent its last response kills the server process."""
        self.looked_at_s = time.monotonic()
        with self._open:
            return not self._closed and bool(self._sender.is_cancelled())

    def keep_alive(self) -> None:
        """Repeats where the request stands, if it wants to know and has not heard of it for long."""
        now_s, ticket, told_s = time.monotonic(), self.ticket, self._told_s
        if not self._request.progress or ticket is None or now_s - told_s < HEARTBEAT_S:
            return
        progress = ticket.progress({})
        with self._news:
            if ticket.ended:  # the answer waits to be sent
                progress = self._latest or progress
            if self._closed or self._unsent is not None or self._told_s != told_s or not progress.steps:
                return  # there is something newer
            self._unsent = progress
        self._outbox.post_news(self, self._send_progress)

    def close(self) -> None:
        """To be called before the last response is sent, or if there is none."""
        with self._open:
            self._closed = True
            self.ticket = self._sender = None  # the ticket refers to this
        self._open_replies.discard(self)

    def progress(self, progress: Progress) -> None:
        with self._news:
            self._unsent = progress if self._unsent is None else progress.after(self._unsent)
            self._latest = progress
        self._outbox.post_news(self, self._send_progress)

    def done(self, completed: Completed) -> None:
        self._outbox.post_end(self, partial(self._send_done, completed))

    def error(self, error: FluxError) -> None:
        self._last.refuse(error)

    def _send_progress(self) -> None:
        with self._news:
            progress, self._unsent = self._unsent, None
        if progress is None or self._closed:  # closed by the outbox itself, which does one thing of this at a time
            return
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
            self._last.refuse(Internal("answer", f"{type(error).__name__}: {error}"))
            return
        size = sum(picture.nbytes for picture in completed.pictures)
        self._last.send(partial(pb_utils.InferenceResponse, tensors), size)

    def _send(self, tensors: Sequence[Any]) -> None:
        """Sends one response.

        Whoever calls this holds on to the tensors meanwhile: before release 24.12, Triton drops those that the caller
        did not ask for without holding Python's lock, and a tensor that nobody else holds is freed then, which sooner
        or later crashes this process (python_backend, pull request 390).
        """
        self._sender.send(pb_utils.InferenceResponse(tensors))

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


def _column(name: str, values: Sequence[object], dtype: type) -> Any:
    return pb_utils.Tensor(name, np.array(values, dtype).reshape(-1, 1))
