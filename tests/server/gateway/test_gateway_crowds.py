"""Many callers of the gateway at once, callers who leave, and a server that goes and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.server.answers import Pixels
from tests.server.openai_calls import ENDLESS, PATH, STEPS, TEXT_TOKENS, asked, connected, pixels
from tests.server.reference import Drawing, Reference
from tests.server.servers import Measured, environment, started, until, until_idle
from tests.unit.client.gateway.running import client, running
from tools.triton.server import TritonServer

CROWD = [Drawing(f"one of many {n}", steps=1 + n % 3, seed=n, width=64, height=64) for n in range(100)] * 2
GIVEN_UP = ("flux_dropped_images_total", {"cause": "cancelled"})


@pytest.fixture(scope="module")
def gateway(triton: TritonServer) -> Iterator[str]:
    with running(url=triton.urls.grpc) as url:
        yield url


def leave_a_call(gateway: str) -> None:
    with client(gateway) as http, pytest.raises(httpx2.ReadTimeout):
        http.post(PATH, json={"prompt": "a", **ENDLESS}, timeout=2.0)


def leave_a_stream(gateway: str) -> None:
    with openai.OpenAI(base_url=f"{gateway}/v1", api_key="none") as sdk:
        steps = {"num_inference_steps": 400}  # the first preview comes after a quarter of them
        for _ in sdk.images.generate(stream=True, partial_images=3, prompt="a", extra_body={**ENDLESS, **steps}):
            break


def cancel_a_task(gateway: str) -> None:
    async def ask() -> None:
        async with connected(gateway) as sdk:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(sdk.images.generate(prompt="a", extra_body=ENDLESS), 2.0)

    asyncio.run(ask())


def leave_a_replaced_route(gateway: str) -> None:
    with client(gateway) as http, pytest.raises(httpx2.ReadTimeout):
        http.post(
            "/generate", json={"prompt": "a", "num_inference_steps": STEPS, "width": 256, "height": 256}, timeout=2.0
        )


def cancel_a_job(gateway: str) -> None:
    body = {"prompt": "a", "num_inference_steps": STEPS, "width": 256, "height": 256}
    with client(gateway) as http:
        url = http.post("/async-generate", json=body).json()["status_url"]
        until(lambda: http.get(url).json()["status"] == "running", "the first step of the job")
        assert http.delete(url).json()["status"] == "cancelled"


@pytest.mark.parametrize("leave", [leave_a_call, leave_a_stream, cancel_a_task, leave_a_replaced_route, cancel_a_job])
def test_who_leaves_frees_the_place(leave: Callable[[str], None], gateway: str, triton: TritonServer) -> None:
    before = until_idle(triton)
    leave(gateway)
    until(lambda: Measured(triton).total(*GIVEN_UP) == before.total(*GIVEN_UP) + 1, "a picture given up")
    after = until_idle(triton)
    assert after.total("flux_images_total") == before.total("flux_images_total")


def test_two_hundred_at_once(gateway: str, reference: Reference) -> None:
    async def scenario() -> list[Any]:
        async with connected(gateway) as sdk:
            return await asyncio.gather(*(sdk.images.generate(**asked(drawing)) for drawing in CROWD))

    for drawing, answer in zip(CROWD, asyncio.run(scenario()), strict=True):
        (item,) = answer.data
        reference.holds(drawing, pixels(item.b64_json), TEXT_TOKENS)


@pytest.mark.slow
def test_a_restart_of_the_server_loses_nothing_and_doubles_nothing(
    checkpoint: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers wait a little longer, that is all. Here not longer than need be, and for however slow a start."""
    monkeypatch.setattr("fluxclient.retries.MAX_PAUSE_S", 0.5)
    pictures: dict[int, Pixels] = {}
    finished_s: list[float] = []

    options: dict[str, Any] = {"models": ("flux",), "environment": environment(model=str(checkpoint))}
    with started(**options) as server, running(url=server.urls.grpc, retries=1000) as gateway:

        async def scenario() -> float:
            numbers = iter(range(len(CROWD)))

            async def caller(sdk: openai.AsyncOpenAI) -> None:
                for number in numbers:
                    answer = await sdk.images.generate(**asked(CROWD[number]))
                    assert number not in pictures and answer.data
                    pictures[number] = pixels(answer.data[0].b64_json)
                    finished_s.append(time.monotonic())

            async with connected(gateway) as sdk:
                callers = [asyncio.create_task(caller(sdk)) for _ in range(20)]
                while len(finished_s) < 20:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(server.stop)
                restart_s = time.monotonic()
                await asyncio.to_thread(server.start)
                await asyncio.gather(*callers)
            return restart_s

        restart_s = asyncio.run(scenario())
        drawn_again = until_idle(server).total("flux_images_total")

    for number, drawing in enumerate(CROWD):
        reference.holds(drawing, pictures[number], TEXT_TOKENS)
    # No server is ready within so short a time, so what had come by then was the work of the first one.
    before = sum(moment < restart_s + 0.5 for moment in finished_s)
    assert 20 <= before < len(CROWD)
    assert drawn_again == len(CROWD) - before
