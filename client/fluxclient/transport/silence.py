"""A server that says nothing of a request for too long: its model has most likely died, of which Triton tells nobody.

The model tells of each request that asks for progress: after each step, and every 5 s while there is none. Every
request of ours does, but for several prompts over HTTP, which the façade answers, also when the model dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fluxclient.errors import ConnectionFailed
from fluxclient.inputs.request import Request

T = TypeVar("T")

UPLOAD_BYTES_PER_S = 500_000
"""How slow a request may travel where it cannot be seen to arrive."""


def first_silence_s(request: Request, size: int) -> float | None:
    """How long the server may say nothing at first, of a request of so many bytes that may still be under way."""
    return None if request.silence_s is None else request.silence_s + size / UPLOAD_BYTES_PER_S


def silent(place: str, request: Request, waited_s: float | None) -> ConnectionFailed:
    """What to raise then; `place` is where the server is. None is for those who wait for ever, and never call this."""
    assert waited_s is not None
    problem = (
        f"{place}: no sign of life for {round(waited_s, 1):g} s: it cannot be reached, the process of the model has "
        "died, or a proxy between holds back its events"
    )
    return ConnectionFailed(problem, field="silence", request_id=request.id)


async def heard(coming: Awaitable[T], within_s: float | None) -> T:
    """What comes within that time; None: whenever. Raises TimeoutError, and cancels it then.

    `asyncio.wait_for` of Python 3.11 and older may lose a cancelling of the task that comes at the same moment.
    """
    task = asyncio.ensure_future(coming)
    try:
        await asyncio.wait({task}, timeout=within_s)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # or asyncio says that nobody has looked at it, where this is cancelled meanwhile
