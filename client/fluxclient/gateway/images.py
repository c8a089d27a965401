"""OpenAI's Images API, and the models that it names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Request, Response

from fluxclient.errors import FluxError
from fluxclient.gateway.access import FILES_PATH
from fluxclient.gateway.drawing import Drawing, unless_left
from fluxclient.gateway.edit_request import EDITS_PATH, read_edit
from fluxclient.gateway.errors import ApiError, api_error
from fluxclient.gateway.gateway import Caller, Gateway, TheGateway
from fluxclient.gateway.image_request import OPENAI_NAMES, ImageRequest
from fluxclient.gateway.image_stream import BEGIN_WITHIN_S, DrawingResponse, preview_interval, stream_events
from fluxclient.gateway.pictures import base64_text, files_of, info_of
from fluxclient.gateway.request_record import note
from fluxclient.request import Options

router = APIRouter()


@router.post("/v1/images/generations", response_model=None)
async def generate(
    body: ImageRequest, request: Request, gateway: TheGateway, caller: Caller
) -> Response | dict[str, Any]:
    return await _draw(body, request, gateway, caller)


@router.post(EDITS_PATH, response_model=None)
async def edit(request: Request, gateway: TheGateway, caller: Caller) -> Response | dict[str, Any]:
    """Image to image."""
    body = await read_edit(request, gateway.config.max_image_bytes)
    return await _draw(body, request, gateway, caller)


async def _draw(body: ImageRequest, request: Request, gateway: Gateway, caller: str) -> Response | dict[str, Any]:
    if body.model not in (None, gateway.config.model):
        raise _no_model(body.model or "", gateway)
    if user := body.safety_identifier or body.user:
        note(request, f"user={user!r}")
    with _in_openai_names():
        options = body.options()
        await gateway.rate.spend(caller)
        if body.stream:
            return await _stream(body, options, request, gateway)
        result = await unless_left(request, gateway.client.generate(body.prompt, **options))
    note(request, f"flux={result.request_id}")
    files = await files_of(result, body.kind, body.output_compression)
    gateway.metrics.images.inc(len(files))
    if body.response_format == "url":
        names = [gateway.files.add(file, body.kind) for file in files]
        data = [{"url": str(request.url_for("file", name=name))} for name in names]
    else:
        data = [{"b64_json": base64_text(file)} for file in files]
    return {
        "created": int(time.time()),
        "data": data,
        "output_format": body.kind,
        "size": f"{result.info.width}x{result.info.height}",
        "background": "opaque",
        "seeds": list(result.seeds),
        "info": info_of(result),
    }


async def _stream(body: ImageRequest, options: Options, request: Request, gateway: Gateway) -> Response:
    """What goes wrong at once still gets a status of its own; what comes later is an event."""
    if body.partial_images:
        total = body.drawn_steps(body.num_inference_steps or gateway.default_steps or 0)
        options["preview_interval"] = preview_interval(total, body.partial_images) if total > 0 else 1
    drawing = Drawing(gateway.client.stream(body.prompt, **options))
    try:
        await unless_left(request, drawing.begin(BEGIN_WITHIN_S))
    except BaseException:
        drawing.cancel()
        raise
    return DrawingResponse(drawing, stream_events(drawing, body, request, gateway), gateway.config.stop_within_s)


@router.get(FILES_PATH + "{name}", name="file")
async def file(name: str, gateway: TheGateway) -> Response:
    picture = gateway.files.find(name)
    if picture is None:
        raise ApiError(404, f"there is no file {name!r}, or no longer", code="not_found")
    headers = {
        "Cache-Control": f"private, max-age={gateway.files.left_s(picture)}, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(picture.file, media_type=f"image/{picture.kind}", headers=headers)


@router.get("/v1/models")
async def models(gateway: TheGateway) -> dict[str, Any]:
    return {"object": "list", "data": [_model(gateway)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, gateway: TheGateway) -> dict[str, Any]:
    if name != gateway.config.model:
        raise _no_model(name, gateway)
    return _model(gateway)


def _model(gateway: Gateway) -> dict[str, Any]:
    return {"id": gateway.config.model, "object": "model", "created": gateway.started_s, "owned_by": "triton"}


def _no_model(name: str, gateway: Gateway) -> ApiError:
    message = f"model: there is no {name!r}; it must be {gateway.config.model!r}, or left out"
    return ApiError(404, message, code="model_not_found", param="model")


@contextmanager
def _in_openai_names() -> Iterator[None]:
    try:
        yield
    except FluxError as error:
        raise api_error(error, OPENAI_NAMES) from error
