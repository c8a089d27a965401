"""Refuses bodies that are too large, or too many at a time, before they fill the memory.

Starlette has a middleware for the first, but that one answers in plain text and not in the form of our errors.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fluxclient.gateway.errors import BODY_TOO_LARGE, ApiError, BodyRefused, overloaded

SMALL_BYTES = 64 * 1024
"""A body without a picture: for those there is always room."""


class BodyLimit:
    """Counts bodies from their first byte to the end of their answer: for so long what they held may be in memory.

    One event loop uses it.
    """

    def __init__(self, app: ASGIApp, max_bytes: Callable[[Scope], int], max_bytes_together: int) -> None:
        """`max_bytes` tells the most bytes of a request, `max_bytes_together` are those of all requests in flight."""
        self.app = app
        self.max_bytes = max_bytes
        self.max_bytes_together = max_bytes_together
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        most = self.max_bytes(scope)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > most:
            return await _too_large(f"is {announced} bytes", most).response()(scope, receive, send)
        if announced.isdecimal() and self._has_no_room(int(announced), self.held_bytes + int(announced)):
            return await self._too_many().response()(scope, receive, send)
        came = 0

        async def limited() -> Message:
            nonlocal came
            message = await receive()
            size = len(message.get("body", b""))
            came += size
            self.held_bytes += size
            if came > most:
                raise BodyRefused(_too_large("is larger", most))
            if self._has_no_room(came, self.held_bytes):
                raise BodyRefused(self._too_many())
            return message

        try:
            await self.app(scope, limited, send)
        finally:
            self.held_bytes -= came

    def _has_no_room(self, size: int, together: int) -> bool:
        return size > SMALL_BYTES and together > self.max_bytes_together

    def _too_many(self) -> ApiError:
        return overloaded(
            f"body: the requests in flight hold {self.held_bytes} bytes, and at most {self.max_bytes_together} "
            "are held at a time; try again later"
        )


def _too_large(sent: str, most: int) -> ApiError:
    return ApiError(413, f"body: {sent}; must be at most {most} bytes", code=BODY_TOO_LARGE)
