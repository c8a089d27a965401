"""Server-sent events of a picture that comes about: OpenAI's, and one for each step."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from fluxclient.errors import FluxError
from fluxclient.gateway.errors import ApiError, api_error, internal_error
from fluxclient.gateway.openai.image_request import ImageRequest
from fluxclient.gateway.openai.picture_events import PictureEvents
from fluxclient.gateway.request_record import note
from fluxclient.gateway.result_encoding import base64_text, encode, files_of, info_of
from fluxclient.gateway.state import Gateway
from fluxclient.result import Preview, Progress, Result

BEGIN_WITHIN_S = 2.0
"""An answer begins by then though nothing has come about yet: it may have to wait in the server's queue for long."""

PING_S = 10.0
"""A stream is never silent for longer: proxies end those that are, HAProxy after 50 s and nginx after 60."""

USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
"""OpenAI's clients want it to be there; FLUX bills no tokens."""

log = logging.getLogger("fluxclient.gateway")


class DrawingResponse(EventSourceResponse):
    """Cancels the drawing when the caller leaves, and lets it end when the gateway is stopped."""

    def __init__(self, drawing: PictureEvents, events: AsyncIterator[ServerSentEvent], stop_within_s: float) -> None:
        super().__init__(events, ping=PING_S, ping_message_factory=_ping, shutdown_grace_period=stop_within_s)
        self._drawing = drawing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also where the events were never asked for
            self._drawing.cancel()


def preview_interval(total_steps: int, previews: int) -> int:
    """Every how many steps, so that so many previews come before the last step, as evenly as it goes."""
    return max(1, min(round(total_steps / (previews + 1)), (total_steps - 1) // previews))


class PartialImages:
    """Which previews a caller gets: at most as many as it wants of each image, spread over the steps."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._sent: Counter[int] = Counter()

    def due(self, preview: Preview) -> Iterator[tuple[int, int]]:
        """(image, index of the partial image) of each that is to be sent."""
        for image, picture in enumerate(preview.images):
            index = self._sent[image]
            if picture is None or index >= self._wanted or preview.step >= preview.total_steps:
                continue
            if preview.step >= (index + 1) * preview_interval(preview.total_steps, self._wanted):
                self._sent[image] += 1
                yield image, index


async def stream_events(
    drawing: PictureEvents, body: ImageRequest, request: Request, gateway: Gateway
) -> AsyncIterator[ServerSentEvent]:
    """What goes wrong is the last event."""
    try:
        partial = PartialImages(body.partial_images or 0)
        told = -1
        async for event in drawing:
            if isinstance(event, Result):
                note(request, f"flux={event.request_id}")
                gateway.metrics.images.inc(len(event.seeds))
                for item in await _completed(event, body):
                    yield item
                continue
            if body.num_inference_steps is None and body.TAKES_ALL_STEPS:
                gateway.default_steps = event.total_steps
            if body.progress and event.step > told:  # a step comes again with its preview, and as a sign of life
                told = event.step
                yield _progress(event, body)
            if isinstance(event, Preview):
                for image, index in partial.due(event):
                    yield await _partial(event, image, index, body)
    except FluxError as error:
        yield _error(api_error(error, body.names), request)
    except Exception:
        log.exception("a stream failed")
        yield _error(internal_error(), request)


def _ping() -> ServerSentEvent:
    return ServerSentEvent(comment="waiting")


def _progress(event: Progress, body: ImageRequest) -> ServerSentEvent:
    return _event(body, "progress", {"step": event.step, "total_steps": event.total_steps})


async def _partial(event: Preview, image: int, index: int, body: ImageRequest) -> ServerSentEvent:
    picture = event.images[image]
    assert picture is not None  # as only those are due that came
    file = await encode(picture, body.kind)
    values = {
        **_common(body, file, body.size or "auto"),
        "partial_image_index": index,
        "image_index": image,
    }
    return _event(body, "partial_image", values)


async def _completed(result: Result, body: ImageRequest) -> list[ServerSentEvent]:
    size = f"{result.info.width}x{result.info.height}"
    files = await files_of(result, body.kind, body.file_quality)
    return [
        _event(
            body,
            "completed",
            {
                **_common(body, file, size),
                "usage": USAGE,
                "image_index": image,
                "seed": seed,
                "info": info_of(result),
            },
        )
        for image, (file, seed) in enumerate(zip(files, result.seeds, strict=True))
    ]


def _common(body: ImageRequest, file: bytes, size: str) -> dict[str, Any]:
    return {
        "b64_json": base64_text(file),
        "created_at": int(time.time()),
        "size": size,
        "quality": "auto",
        "background": "opaque",
        "output_format": body.kind,
    }


def _error(error: ApiError, request: Request) -> ServerSentEvent:
    note(request, f"error={error.message!r}")
    return _server_sent("error", {"error": error.body()})


def _event(body: ImageRequest, kind: str, values: dict[str, Any]) -> ServerSentEvent:
    return _server_sent(f"{body.EVENTS}.{kind}", values)


def _server_sent(kind: str, values: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(event=kind, data=json.dumps({"type": kind, **values}))
