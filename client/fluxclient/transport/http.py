"""HTTP: by tritonclient, but for what it does not do (`http_stream`) or not cleanly (health).

By aiohttp, which tritonclient brings along, in a thread with an event loop for those who have none. httpx, which has
both kinds of client, would not make this smaller: no other thread can end a call of its sync client that waits
(findings/httpx_close_leaves_calls_waiting.sh), it has no limit for a request as a whole, and to read events is a dozen
lines.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
from tritonclient.http.aio import InferenceServerClient

from fluxclient.inputs.request import Request
from fluxclient.transport.address import Address
from fluxclient.transport.control_key import control_headers
from fluxclient.transport.http_errors import told
from fluxclient.transport.http_infer import InferCall
from fluxclient.transport.http_stream import StreamCall
from fluxclient.transport.interface import Call, ModelConfig
from fluxclient.transport.loop_thread import LoopThread, ThreadedCall
from fluxclient.transport.metrics import fetch_metrics

T = TypeVar("T")


class AsyncHttpTransport:
    """Connections are made when they are needed, one for each request in flight, and used again."""

    def __init__(self, address: Address) -> None:
        self._base_url = f"{address.scheme}://{address.target}{address.path}"
        # How many requests are in flight is for the caller to bound.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._triton: Any = InferenceServerClient(
            f"{address.target}{address.path}", ssl=address.scheme == "https", conn_limit=0, conn_timeout=None
        )

    def open(self, model: str, request: Request) -> Call:
        if len(request.prompts) > 1:
            return InferCall(self._triton, self._base_url, model, request)
        return StreamCall(self._session, self._base_url, model, request)

    async def server_live(self, timeout_s: float) -> bool:
        return await self._ask(self._says_yes("health/live"), timeout_s)

    async def server_ready(self, timeout_s: float) -> bool:
        return await self._ask(self._says_yes("health/ready"), timeout_s)

    async def model_ready(self, model: str, timeout_s: float) -> bool:
        return await self._ask(self._says_yes(f"models/{quote(model)}/ready"), timeout_s)

    async def server_version(self, timeout_s: float) -> str:
        metadata = await self._ask(self._triton.get_server_metadata(), timeout_s)
        return f"{metadata['name']} {metadata['version']}"

    async def model_config(self, model: str, timeout_s: float) -> ModelConfig:
        config: ModelConfig = await self._ask(self._triton.get_model_config(model), timeout_s)
        return config

    async def metrics(self, url: str, timeout_s: float) -> str:
        return await asyncio.to_thread(fetch_metrics, url, timeout_s)

    async def load(self, model: str, config: ModelConfig | None, timeout_s: float | None, key: str | None) -> None:
        text = None if config is None else json.dumps(config)
        await self._ask(self._triton.load_model(model, headers=control_headers(key), config=text), timeout_s)

    async def unload(self, model: str, timeout_s: float | None, key: str | None) -> None:
        await self._ask(self._triton.unload_model(model, headers=control_headers(key)), timeout_s)

    async def close(self) -> None:
        await self._session.close()
        await self._triton.close()

    async def _says_yes(self, path: str) -> bool:
        """tritonclient never reads the reason of a no, which loses the connection."""
        async with self._session.get(f"{self._base_url}/v2/{path}") as response:
            return response.status == 200

    async def _ask(self, answer: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        with told(self._base_url, timeout_s):
            return await asyncio.wait_for(answer, timeout_s)


class HttpTransport(AsyncHttpTransport):
    """For threads: it lives in an event loop of its own, which does what has to be waited for."""

    def __init__(self, address: Address) -> None:
        self._loop = LoopThread()
        self._loop.run(self._begin(address))

    def open(self, model: str, request: Request) -> ThreadedCall:
        return ThreadedCall(self._loop, super().open(model, request))

    async def metrics(self, url: str, timeout_s: float) -> str:
        return fetch_metrics(url, timeout_s)

    async def close(self) -> None:
        self._loop.close(super().close)

    async def _begin(self, address: Address) -> None:
        super().__init__(address)

    async def _ask(self, answer: Coroutine[Any, Any, T], timeout_s: float | None) -> T:
        return self._loop.run(super()._ask(answer, timeout_s))
