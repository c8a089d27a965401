"""What is kept of each request: its id, a line in the log, and its part in the metrics."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fluxclient.gateway.errors import CLIENT_LEFT, api_error, internal_error
from fluxclient.gateway.metrics import Metrics
from fluxclient.gateway.stopping import stopped

REQUEST_ID = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_PATH_CHARACTERS = 200
"""Of a path, as the log shows it."""

log = logging.getLogger("fluxclient.gateway")


class RequestRecord:
    """Middleware around all others. An answer carries the id that the request brought along, or a new one.

    It also answers where the application fails: Starlette's own answer to that would not pass through here.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        sent = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = sent if _ID.fullmatch(sent) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["notes"] = []
        status, complete = 0, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        start_s = time.perf_counter()
        with self.metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, send_with_id)
            except Exception:
                log.exception("request %s failed", request_id)
                if not status:
                    await internal_error().response()(scope, receive, send_with_id)
            except asyncio.CancelledError:  # the gateway's time is over
                if not status:
                    await api_error(stopped()).response()(scope, receive, send_with_id)
                raise
            finally:
                seconds = time.perf_counter() - start_s
                outcome = status if complete else CLIENT_LEFT
                route = _route(scope)
                self.metrics.requests.labels(route, outcome).inc()
                self.metrics.seconds.labels(route).observe(seconds)
                notes = "".join(f" {item}" for item in state["notes"])
                line = "%s %s %d %.0f ms id=%s caller=%r%s"
                path = quote(scope["path"][:_PATH_CHARACTERS])
                log.info(line, scope["method"][:16], path, outcome, seconds * 1000, request_id, caller_of(scope), notes)


def caller_of(scope: Scope) -> str:
    """The name of the key that was shown, or the address where no keys are needed."""
    host = scope["client"][0] if scope.get("client") else ""
    return str(scope.get("state", {}).get("caller", host))


def note(request: Request, text: str) -> None:
    """Adds to the line that the log gets of this request."""
    request.state.notes.append(text)


def _route(scope: Scope) -> str:
    """As it is declared, as in "GET /jobs/{job_id}"; what is at no route counts together."""
    route = scope.get("route")
    methods = getattr(route, "methods", None) or ()
    return f"{scope['method']} {getattr(route, 'path', '')}" if scope["method"] in methods else "other"
