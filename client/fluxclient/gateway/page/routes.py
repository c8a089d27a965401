"""The page: its files, and what it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from fluxclient.gateway.page.server_state import PageState
from fluxclient.gateway.state import READ

PAGE = Path(__file__).with_name("static")
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asks each time, and hears that nothing changed
}

router = APIRouter()
_files = StaticFiles(directory=PAGE)


@router.api_route("/", methods=READ)
async def page(request: Request) -> Response:
    return await page_file("index.html", request)


@router.api_route("/page/state", methods=READ)
async def page_state(request: Request) -> JSONResponse:
    state = cast(PageState, request.app.state.page_state)
    return JSONResponse(await state.look(), headers={"Cache-Control": "no-store"})


@router.api_route("/page/{name}", methods=READ)
async def page_file(name: str, request: Request) -> Response:
    response = await _files.get_response(name, request.scope)
    response.headers.update(PAGE_HEADERS)
    return response
