"""Work for a caller who may leave, in a gateway that may be stopped: then it is cancelled, on the server too."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from fluxclient.gateway.errors import ClientLeft
from fluxclient.gateway.stopping import Stopping, stopped

T = TypeVar("T")


async def unless_left(request: Request, stopping: Stopping, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives. Cancels it and raises ClientLeft when the caller closes the connection meanwhile, and
    Cancelled when the gateway's time is over.

    The request's body must have been read.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    ending = asyncio.create_task(stopping.over())
    try:
        await asyncio.wait({working, leaving, ending}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft if leaving.done() else stopped()
    finally:
        tasks = (working, leaving, ending)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
