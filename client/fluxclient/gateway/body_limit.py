"""Refuses bodies that are too large, before they fill the memory.

Starlette has such a middleware, but that one answers in plain text and not in the form of our errors.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fluxclient.gateway.errors import BODY_TOO_LARGE, ApiError


class BodyLimit:
    def __init__(self, app: ASGIApp, max_bytes: int, of_paths: Mapping[str, int]) -> None:
        """`of_paths` has the most bytes of those paths that are not held to `max_bytes`."""
        self.app = app
        self.max_bytes = max_bytes
        self.of_paths = of_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        most = self.of_paths.get(scope["path"], self.max_bytes)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > most:
            refusal = ApiError(413, _problem(f"is {announced} bytes", most), code=BODY_TOO_LARGE)
            return await refusal.response()(scope, receive, send)
        came = 0

        async def limited() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > most:
                raise HTTPException(413, _problem("is larger", most))  # the kind that FastAPI lets pass
            return message

        await self.app(scope, limited, send)


def _problem(sent: str, most: int) -> str:
    return f"body: {sent}; must be at most {most} bytes"
