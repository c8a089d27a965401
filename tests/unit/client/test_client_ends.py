"""Giving up, closing, and what is left then."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fluxclient import AsyncFluxClient, Cancelled, FluxClient
from tests.unit.client.fakes.behaviours import (
    BOUND_S,
    draw,
    draw_in_steps,
    no_task_left,
    stay,
    stay_silently,
    wait_until,
)
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.fakes.http_server import HttpServer

Server = WireServer | HttpServer
EACH_REQUEST = pytest.mark.parametrize("prompts", ["one", ["one", "two"]])
EACH_WAIT = pytest.mark.parametrize("behaviour", [stay, stay_silently])


@EACH_REQUEST
@EACH_WAIT
def test_cancelled_task_cancels_on_the_server(either: Server, behaviour: Any, prompts: Any) -> None:
    either.behaviour = behaviour

    async def run() -> None:
        async with AsyncFluxClient(either.url) as client:
            task = asyncio.create_task(client.generate(prompts))
            while not either.requests:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(either.cancelled.wait, BOUND_S)

    asyncio.run(run())


def test_cancelled_generate_many_cancels_all(either: Server) -> None:
    either.behaviour = stay

    async def run() -> None:
        async with AsyncFluxClient(either.url) as client:
            task = asyncio.create_task(client.generate_many(["a cat"] * 9, concurrency=3))
            while len(either.requests) < 3:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await no_task_left()
            assert await asyncio.to_thread(wait_until, lambda: either.at_once == 0)

    asyncio.run(run())
    assert len(either.requests) == 3


def test_interrupted_generate_many_cancels_all(either: Server) -> None:
    either.behaviour = stay

    def prompts() -> Iterator[str]:
        yield from ["a cat"] * 3
        assert wait_until(lambda: len(either.requests) == 3)
        raise KeyboardInterrupt

    start = time.monotonic()
    with FluxClient(either.url) as client, pytest.raises(KeyboardInterrupt):
        client.generate_many(prompts(), concurrency=3)
    assert time.monotonic() - start < BOUND_S
    assert wait_until(lambda: either.at_once == 0)


@EACH_REQUEST
def test_interrupted_generate_cancels_on_the_server(either: Server, prompts: Any) -> None:
    either.behaviour = stay

    def interrupt() -> None:
        if wait_until(lambda: bool(either.requests)):
            os.kill(os.getpid(), signal.SIGINT)

    with FluxClient(either.url) as client:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            client.generate(prompts)
        assert either.cancelled.wait(BOUND_S)


@EACH_REQUEST
@EACH_WAIT
def test_closing_the_sync_client_gives_up_what_is_in_flight(either: Server, behaviour: Any, prompts: Any) -> None:
    either.behaviour = behaviour
    client = FluxClient(either.url)

    def close() -> None:
        wait_until(lambda: bool(either.requests))
        client.close()

    threading.Thread(target=close).start()
    with pytest.raises(Cancelled, match="closed"):
        client.generate(prompts)
    with pytest.raises(RuntimeError, match="closed"):
        client.generate("a cat")
    client.close()


def test_closing_the_sync_client_ends_a_stream(either: Server) -> None:
    either.behaviour = stay
    client = FluxClient(either.url)
    stream, unread = client.stream("a cat"), client.stream("a cat")
    next(stream)
    client.close()
    with pytest.raises(Cancelled, match="closed"):
        next(stream)
    with pytest.raises(RuntimeError, match="closed"):
        next(unread)


@EACH_REQUEST
@EACH_WAIT
def test_closing_the_async_client_gives_up_what_is_in_flight(either: Server, behaviour: Any, prompts: Any) -> None:
    either.behaviour = behaviour

    async def run() -> None:
        client = AsyncFluxClient(either.url)
        task = asyncio.create_task(client.generate(prompts))
        while not either.requests:
            await asyncio.sleep(0.005)
        await client.close()
        with pytest.raises(Cancelled, match="closed"):
            await task
        with pytest.raises(RuntimeError, match="closed"):
            await client.generate("a cat")
        await client.close()

    asyncio.run(run())


def test_async_client_belongs_to_one_loop(either: Server) -> None:
    either.behaviour = draw
    client = AsyncFluxClient(either.url)  # also without a running loop

    async def run() -> None:
        await client.generate("a cat")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(run())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(run())
    loop.run_until_complete(client.close())
    loop.close()


def test_hundreds_at_once_leave_nothing_behind(either: Server) -> None:
    either.behaviour = draw_in_steps

    async def run() -> None:
        async with AsyncFluxClient(either.url) as client:
            results = await asyncio.gather(*(client.generate(str(number)) for number in range(300)))
            assert [result.prompt for result in results] == [str(number) for number in range(300)]
            assert await asyncio.to_thread(wait_until, lambda: either.ended == 300)
            assert await no_task_left()

    asyncio.run(run())
    assert not either.cancelled.is_set()


def test_connections_are_used_again() -> None:
    server = HttpServer()
    server.behaviour = draw_in_steps
    try:
        with FluxClient(server.url) as client:
            for _ in range(10):
                client.generate("a cat")
                client.health()
        assert server.connections == 1
    finally:
        server.stop()


def client_threads() -> set[threading.Thread]:
    """Those that are not the server's."""
    return {
        thread for thread in threading.enumerate() if not any(part in thread.name for part in ("Executor", "process_"))
    }


def test_cancelled_streams_leave_no_threads(either: Server) -> None:
    either.behaviour = stay
    before_all = client_threads()
    with FluxClient(either.url) as client:
        next(client.stream("warm up"))
        for _ in range(20):
            with_events = client.stream("a cat")
            next(with_events)
            with_events.close()
        assert wait_until(lambda: either.at_once <= 1)
    either.stop()
    assert wait_until(lambda: client_threads() <= before_all)
