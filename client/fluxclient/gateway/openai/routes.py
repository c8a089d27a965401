"""OpenAI's Images API, and the models that it names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Request, Response

from fluxclient.errors import FluxError, shown
from fluxclient.gateway.admission.keys import FILES_PATH
from fluxclient.gateway.admission.media_type import JsonOnly
from fluxclient.gateway.errors import ApiError, api_error
from fluxclient.gateway.leaving import unless_left
from fluxclient.gateway.openai.edit_request import EDITS_PATH, read_edit
from fluxclient.gateway.openai.image_request import ImageRequest
from fluxclient.gateway.openai.image_stream import BEGIN_WITHIN_S, DrawingResponse, preview_interval, stream_events
from fluxclient.gateway.openai.picture_events import PictureEvents
from fluxclient.gateway.request_record import note
from fluxclient.gateway.result_encoding import base64_text, files_of, info_of
from fluxclient.gateway.state import READ, Caller, Gateway, TheGateway
from fluxclient.inputs.options import Options

router = APIRouter()

_USER_CHARACTERS = 256
"""Of a caller's own name for a user, as the log shows it."""


@router.post("/v1/images/generations", response_model=None, dependencies=[JsonOnly])
async def generate(
    body: ImageRequest, request: Request, gateway: TheGateway, caller: Caller
) -> Response | dict[str, Any]:
    return await _draw(body, request, gateway, caller)


@router.post(EDITS_PATH, response_model=None)
async def edit(request: Request, gateway: TheGateway, caller: Caller) -> Response | dict[str, Any]:
    """Image to image."""
    config = gateway.config
    body = await read_edit(request, config.max_image_bytes, config.allow_origins)
    return await _draw(body, request, gateway, caller)


async def _draw(body: ImageRequest, request: Request, gateway: Gateway, caller: str) -> Response | dict[str, Any]:
    if body.model is not None and body.model not in gateway.models:
        raise _no_model(body.model, gateway)
    if user := body.safety_identifier or body.user:
        note(request, f"user={user[:_USER_CHARACTERS]!r}")
    with _in_names_of(body):
        options = body.options()
        await gateway.rate.spend(caller)
        if body.stream:
            return await _stream(body, options, request, gateway)
        work = gateway.client.generate(body.prompt, **options)
        result = await unless_left(request, gateway.stopping, work)
    note(request, f"flux={result.request_id}")
    files = await files_of(result, body.kind, body.file_quality)
    gateway.metrics.images.inc(len(files))
    if (body.response_format or gateway.config.response_format) == "url":
        names = gateway.files.add(files, body.kind)
        data = [{"url": gateway.address(request, "file", name=name)} for name in names]
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
    drawing = PictureEvents(gateway.client.stream(body.prompt, **options), gateway.stopping)
    try:
        await unless_left(request, gateway.stopping, drawing.begin(BEGIN_WITHIN_S))
    except BaseException:
        drawing.cancel()
        raise
    return DrawingResponse(drawing, stream_events(drawing, body, request, gateway), gateway.config.stop_within_s)


@router.api_route(FILES_PATH + "{name}", methods=READ, name="file")
async def file(name: str, gateway: TheGateway) -> Response:
    picture = gateway.files.find(name)
    if picture is None:
        raise ApiError(404, f"there is no file {shown(name)}, or no longer", code="not_found")
    headers = {
        "Cache-Control": f"private, max-age={gateway.files.left_s(picture)}, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(picture.file, media_type=f"image/{picture.kind}", headers=headers)


@router.api_route("/v1/models", methods=READ)
async def models(gateway: TheGateway) -> dict[str, Any]:
    return {"object": "list", "data": [_model(name, gateway) for name in gateway.models]}


@router.api_route("/v1/models/{name:path}", methods=READ)
async def model(name: str, gateway: TheGateway) -> dict[str, Any]:
    if name not in gateway.models:
        raise _no_model(name, gateway)
    return _model(name, gateway)


def _model(name: str, gateway: Gateway) -> dict[str, Any]:
    """`root` is the model that an alias stands for."""
    root = {} if name == gateway.config.model else {"root": gateway.config.model}
    return {"id": name, "object": "model", "created": gateway.started_s, "owned_by": "triton", **root}


def _no_model(name: str, gateway: Gateway) -> ApiError:
    allowed = " or ".join(map(repr, gateway.models))
    message = f"model: there is no {shown(name)}; it must be {allowed}, or left out; operators add names with --alias"
    return ApiError(404, message, code="model_not_found", param="model")


@contextmanager
def _in_names_of(body: ImageRequest) -> Iterator[None]:
    try:
        yield
    except FluxError as error:
        raise api_error(error, body.names) from error
