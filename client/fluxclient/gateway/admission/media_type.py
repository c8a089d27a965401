"""What a body is, as its Content-Type says."""

from __future__ import annotations

from fastapi import Depends, Request
from starlette.datastructures import Headers

from fluxclient.errors import shown
from fluxclient.gateway.errors import ApiError

JSON = "application/json"
FORM = "multipart/form-data"


def media_type(headers: Headers) -> str:
    """Without parameters, in lower case; empty where none is named."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def unsupported(headers: Headers, *allowed: str) -> ApiError:
    sent = media_type(headers)
    problem = f"has Content-Type {shown(sent)}" if sent else "has no Content-Type"
    return ApiError(415, f"body: {problem}; must be {' or '.join(allowed)}", code="unsupported_media_type")


async def _json_only(request: Request) -> None:
    if media_type(request.headers) != JSON:
        raise unsupported(request.headers, JSON)


JsonOnly = Depends(_json_only)
"""Any site's page can make a browser send what names no type, or a form or plain text. FastAPI before 0.132 takes what
names none for JSON."""
