"""Callers of fluxclient that leave are seen in the server's metrics, and leave nothing behind themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest

from fluxclient import AsyncFluxClient, FluxClient, Result
from tests.server.faces import EACH, IDS, PROTOCOLS, Made, url_of
from tests.server.servers import Measured, until, until_idle
from tests.unit.client.fakes.behaviours import no_task_left
from tools.triton.server import TritonServer

STEPS = 1000
CROWD = 200
ENDLESS: dict[str, Any] = {"num_inference_steps": STEPS, "height": 256, "width": 256}
GIVEN_UP = ("flux_dropped_images_total", {"cause": "cancelled"})
EACH_PROTOCOL = pytest.mark.parametrize("protocol", PROTOCOLS)


def assert_given_up(triton: TritonServer, before: Measured, images: int = 1) -> None:
    until(lambda: Measured(triton).total(*GIVEN_UP) >= before.total(*GIVEN_UP) + images, "pictures given up")
    after = until_idle(triton)
    assert after.total(*GIVEN_UP) == before.total(*GIVEN_UP) + images
    assert after.total("flux_images_total") == before.total("flux_images_total")
    assert after.total("flux_steps_total") - before.total("flux_steps_total") < STEPS


async def until_running(triton: TritonServer, jobs: int) -> None:
    def running() -> bool:
        return Measured(triton).total("flux_jobs_running") >= jobs

    await asyncio.to_thread(until, running, f"{jobs} pictures on their way")


@pytest.mark.parametrize("made", EACH, ids=IDS)
def test_leaving_a_stream(made: Made, triton: TritonServer) -> None:
    before = until_idle(triton)
    assert len(made(triton).events("nobody waits for it", most=2, **ENDLESS)) == 2
    assert_given_up(triton, before)


@EACH_PROTOCOL
def test_closing_what_stream_returns(protocol: str, triton: TritonServer) -> None:
    before = until_idle(triton)
    with FluxClient(url_of(triton, protocol)) as client:
        stream = client.stream("nobody waits for it", **ENDLESS)
        next(stream)
        stream.close()
        assert_given_up(triton, before)


@EACH_PROTOCOL
def test_closing_the_client(protocol: str, triton: TritonServer) -> None:
    before = until_idle(triton)
    client = FluxClient(url_of(triton, protocol))
    next(client.stream("nobody waits for it", **ENDLESS))
    client.close()
    assert_given_up(triton, before)


Leave = Callable[[AsyncFluxClient], Any]


@EACH_PROTOCOL
@pytest.mark.parametrize(
    ("ask", "images"),
    [
        (lambda client: client.generate("nobody waits for it", **ENDLESS), 1),
        (lambda client: client.generate_many(["nobody waits for them"] * 5, concurrency=5, **ENDLESS), 5),
    ],
    ids=["generate", "generate_many"],
)
def test_cancelling_a_task(ask: Leave, images: int, protocol: str, triton: TritonServer) -> None:
    before = until_idle(triton)

    async def run() -> None:
        async with AsyncFluxClient(url_of(triton, protocol)) as client:
            task = asyncio.create_task(ask(client))
            await until_running(triton, images)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await no_task_left()
            await asyncio.to_thread(assert_given_up, triton, before, images)

    asyncio.run(run())


def test_several_prompts_of_a_request_are_given_up_over_grpc_alone(triton: TritonServer) -> None:
    """Over HTTP they are drawn to their end, as the README says: Triton tells nobody that the caller has left."""
    prompts = ["nobody waits", "for them"]

    async def leave(protocol: str, steps: int) -> None:
        async with AsyncFluxClient(url_of(triton, protocol)) as client:
            task = asyncio.create_task(client.generate(prompts, **{**ENDLESS, "num_inference_steps": steps}))
            await until_running(triton, 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    before = until_idle(triton)
    asyncio.run(leave("grpc", STEPS))
    assert_given_up(triton, before, 2)
    before = until_idle(triton)
    asyncio.run(leave("http", 100))
    drawn = before.total("flux_images_total") + 2  # awaited, as nothing tells of a picture while it is decoded
    until(lambda: Measured(triton).total("flux_images_total") == drawn, "both to be drawn")


def pixels(result: Result) -> Any:
    return np.asarray(result.image)


def sockets() -> int:
    return len(psutil.Process().net_connections("tcp"))


@EACH_PROTOCOL
def test_hundreds_at_once_leave_nothing_behind(protocol: str, triton: TritonServer) -> None:
    prompts = [f"fox {number}" for number in range(CROWD)]
    options: dict[str, Any] = {"num_inference_steps": 1, "height": 64, "width": 64, "seed": 1}

    async def run() -> None:
        async with AsyncFluxClient(url_of(triton, protocol)) as client:
            results = await asyncio.gather(*(client.generate(prompt, **options) for prompt in prompts))
            assert [result.prompt for result in results] == prompts
            assert len({result.files for result in results}) == CROWD
            assert await no_task_left()
            many = await client.generate_many(prompts, concurrency=CROWD, **options)
            for one, other in zip(results, many, strict=True):
                assert isinstance(other, Result)
                # Who shares a batch may round otherwise.
                assert np.abs(pixels(one).astype(int) - pixels(other)).max() <= 1
        assert await no_task_left()

    before = sockets()
    asyncio.run(run())  # what the libraries start once and keep is there after this
    threads = threading.active_count()
    asyncio.run(run())
    until(lambda: sockets() <= before, "all connections to be closed")
    until(lambda: threading.active_count() <= threads, "no more threads than before")


@EACH_PROTOCOL
def test_sync_client_leaves_nothing_behind(protocol: str, triton: TritonServer) -> None:
    def use() -> None:
        with FluxClient(url_of(triton, protocol)) as client:
            client.generate_many(["a fox"] * 40, concurrency=20, num_inference_steps=1, height=64, width=64)
            next(client.stream("a fox", **ENDLESS))

    before = sockets()
    use()
    threads = threading.active_count()
    use()
    until(lambda: sockets() <= before, "all connections to be closed")
    until(lambda: threading.active_count() <= threads, "no more threads than before")
