"""Refuses bodies that are too large, before they fill the memory.

Starlette has such a middleware, but that one answers in plain text and not in the form of our errors.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fluxclient.gateway.errors import BODY_TOO_LARGE, ApiError


class BodyLimit:
    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self.max_bytes:
            refusal = ApiError(413, self._problem(f"is {announced} bytes"), code=BODY_TOO_LARGE)
            return await refusal.response()(scope, receive, send)
        came = 0

        async def limited() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.max_bytes:
                raise HTTPException(413, self._problem("is larger"))  # the kind that FastAPI lets pass
            return message

        await self.app(scope, limited, send)

    def _problem(self, sent: str) -> str:
        return f"body: {sent}; must be at most {self.max_bytes} bytes"
