"""Proxies between client and server that end what takes long, and how their doing looks from here.

The server may go on drawing then, and the next attempt would meet the same end: so there is none.
"""

from __future__ import annotations

from fluxclient.errors import ConnectionFailed, FluxError

LONG_S = 10.0
"""No proxy that is known cuts sooner by itself: Envoy after 15 s, HAProxy after 30 or 50, nginx after 60."""

SHOWN_CHARACTERS = 200
"""How much is told of what the proxy says."""

SAME_S = 1.0
"""How far apart two cuts by one timeout may be."""

ADVICE = (
    "the timeout of a proxy between is the likely cause, and the server may still be drawing; raise it "
    "(Envoy: the route's timeout, 15s by default; nginx: grpc_read_timeout or proxy_read_timeout; "
    "HAProxy: timeout server)"
)


def says_proxy(error: FluxError, waited_s: float) -> bool:
    """Whether an error that came so long after the request was sent is a proxy's timeout."""
    # What ends a stream of HTTP/2 in this way is a proxy: Triton says why, or its connection breaks.
    reset = "RST_STREAM" in error.text and error.code in ("INTERNAL", "CANCELLED")
    return error.field == "proxy" or (reset and waited_s >= LONG_S)


def cut_by_proxy(error: FluxError, waited_s: float) -> ConnectionFailed:
    """What to raise in place of `error`."""
    said = " ".join(error.text.split())[:SHOWN_CHARACTERS]
    problem = f"cut off after {waited_s:.1f} s ({said}): {ADVICE}"
    return ConnectionFailed(problem, field="proxy", request_id=error.request_id)
