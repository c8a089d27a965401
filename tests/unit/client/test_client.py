"""Both clients against a real gRPC server: each test runs for the sync and for the async one."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from fluxclient import (
    AsyncFluxClient,
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    Event,
    FluxClient,
    FluxError,
    Health,
    InvalidArgument,
    NotFound,
    Overloaded,
    Preview,
    Progress,
    Result,
    ServerError,
)
from tests.unit.client.answers import end, error, final, picture, step, texts
from tests.unit.client.wire_server import WireServer

BOUND_S = 10.0
"""Far more than anything here takes, and what a hang would exceed."""


class Face(Protocol):
    """What both clients can do, called in the same way."""

    def generate(self, prompt: Any, **options: Any) -> Any: ...

    def events(self, prompt: str, most: int | None = None, **options: Any) -> list[Event]: ...

    def generate_many(self, prompts: Any, **options: Any) -> list[Result | FluxError]: ...

    def health(self) -> Health: ...


class SyncFace:
    def __init__(self, url: str) -> None:
        self.url = url

    def generate(self, prompt: Any, **options: Any) -> Any:
        with FluxClient(self.url) as client:
            return client.generate(prompt, **options)

    def events(self, prompt: str, most: int | None = None, **options: Any) -> list[Event]:
        events: list[Event] = []
        with FluxClient(self.url) as client:
            for event in client.stream(prompt, **options):
                events.append(event)
                if len(events) == most:
                    break
        return events

    def generate_many(self, prompts: Any, **options: Any) -> list[Result | FluxError]:
        with FluxClient(self.url) as client:
            return client.generate_many(prompts, **options)

    def health(self) -> Health:
        with FluxClient(self.url) as client:
            return client.health()


class AsyncFace:
    def __init__(self, url: str) -> None:
        self.url = url

    def generate(self, prompt: Any, **options: Any) -> Any:
        async def run() -> Any:
            async with AsyncFluxClient(self.url) as client:
                return await client.generate(prompt, **options)

        return asyncio.run(run())

    def events(self, prompt: str, most: int | None = None, **options: Any) -> list[Event]:
        async def run() -> list[Event]:
            events: list[Event] = []
            async with AsyncFluxClient(self.url) as client:
                async for event in client.stream(prompt, **options):
                    events.append(event)
                    if len(events) == most:
                        break
            return events

        return asyncio.run(run())

    def generate_many(self, prompts: Any, **options: Any) -> list[Result | FluxError]:
        async def run() -> list[Result | FluxError]:
            async with AsyncFluxClient(self.url) as client:
                return await client.generate_many(prompts, **options)

        return asyncio.run(run())

    def health(self) -> Health:
        async def run() -> Health:
            async with AsyncFluxClient(self.url) as client:
                return await client.health()

        return asyncio.run(run())


@pytest.fixture(params=[SyncFace, AsyncFace], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Callable[[str], Face]:
    made: Callable[[str], Face] = request.param
    return made


@pytest.fixture
def client(kind: Callable[[str], Face], server: WireServer) -> Face:
    return kind(server.url)


def prompts_of(request: Any) -> list[str]:
    (content,) = [
        raw for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True) if tensor.name == "prompt"
    ]
    texts_of, at = [], 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "little")
        texts_of.append(content[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return texts_of


def draw(request: Any, context: Any) -> Iterator[Any]:
    """One red picture for each prompt."""
    rows = len(prompts_of(request))
    yield final([[picture()]] * rows, [[7]] * rows)


def draw_in_steps(request: Any, context: Any) -> Iterator[Any]:
    yield step(1, 2)
    yield step(2, 2, "preview", image=texts([[picture("blue", size=(4, 4))]]))
    yield from draw(request, context)
    yield end()


def stay(request: Any, context: Any) -> Iterator[Any]:
    """One step, and then nothing for as long as the caller is there."""
    yield step(1, 8)
    gone = threading.Event()
    if context.add_callback(gone.set):  # else it has left already
        gone.wait(30)


def say(message: str) -> Callable[[Any, Any], Iterator[Any]]:
    return lambda request, context: iter([error(message)])


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(reached: Callable[[], bool]) -> bool:
    end_at = time.monotonic() + BOUND_S
    while not reached() and time.monotonic() < end_at:
        time.sleep(0.005)
    return reached()


async def no_task_left() -> bool:
    """Whether all tasks but the test's own end; those inside gRPC take a moment."""
    end_at = time.monotonic() + BOUND_S
    while len(asyncio.all_tasks()) > 1 and time.monotonic() < end_at:
        await asyncio.sleep(0.005)
    return len(asyncio.all_tasks()) == 1


# --- generate


def test_generate(client: Face, server: WireServer) -> None:
    server.behaviour = draw
    result = client.generate("a cat", seed=7)

    assert (result.prompt, result.seeds, result.image.getpixel((0, 0))) == ("a cat", (7,), (255, 0, 0))
    assert result.request_id == server.requests[0].id
    assert server.requests[0].model_name == "flux"


@pytest.mark.parametrize("container", [list, tuple])
def test_several_prompts_go_in_one_request(client: Face, server: WireServer, container: Callable[..., Any]) -> None:
    server.behaviour = draw
    results = client.generate(container(["one", "two", "three"]))

    assert [result.prompt for result in results] == ["one", "two", "three"]
    assert [prompts_of(request) for request in server.requests] == [["one", "two", "three"]]


def test_one_prompt_in_a_list_gives_a_list(client: Face, server: WireServer) -> None:
    server.behaviour = draw
    assert [result.prompt for result in client.generate(["one"])] == ["one"]


def test_timeout_goes_to_the_server(client: Face, server: WireServer) -> None:
    server.behaviour = draw
    client.generate("a cat", timeout=2.5)

    assert server.requests[0].parameters["timeout"].int64_param == 2_500_000


def test_picture_of_many_megabytes(client: Face, server: WireServer) -> None:
    huge = picture() + bytes(20_000_000)  # data after the end of a PNG is allowed
    server.behaviour = lambda request, context: iter([final([[huge]], [[1]])])

    assert len(client.generate("a cat").files[0]) == len(huge)


def test_finished_request_is_not_cancelled(client: Face, server: WireServer) -> None:
    server.behaviour = draw_in_steps
    client.generate("a cat")

    assert wait_until(lambda: server.ended == 1)
    assert not server.cancelled.is_set()


# --- stream


def test_stream_tells_of_everything_in_order(client: Face, server: WireServer) -> None:
    server.behaviour = draw_in_steps
    progress, preview, result = client.events("a cat", preview_interval=2)

    assert isinstance(progress, Progress) and (progress.step, progress.total_steps) == (1, 2)
    assert isinstance(preview, Preview) and preview.images[0] is not None and preview.images[0].size == (4, 4)
    assert isinstance(result, Result) and result.prompt == "a cat"
    assert "progress" in [tensor.name for tensor in server.requests[0].inputs]


def test_leaving_a_stream_cancels_on_the_server(client: Face, server: WireServer) -> None:
    server.behaviour = stay

    assert len(client.events("a cat", most=1)) == 1
    assert server.cancelled.wait(BOUND_S)


def test_wrong_options_are_told_before_the_first_event(server: WireServer) -> None:
    with FluxClient(server.url) as client, pytest.raises(InvalidArgument):
        client.stream("a cat", height=2**40)
    with pytest.raises(InvalidArgument):
        AsyncFluxClient(server.url).stream("a cat", height=2**40)
    assert server.requests == []


# --- errors


@pytest.mark.parametrize(
    ("message", "kind_of_error"),
    [
        ("FLUX_INVALID_ARGUMENT: height: is 7; must be a multiple of 16 [request 1]", InvalidArgument),
        ("Exceeds maximum queue size", Overloaded),
        ("Request for unknown model: 'flux' is not found", NotFound),
    ],
)
def test_error_of_the_server(client: Face, server: WireServer, message: str, kind_of_error: type[FluxError]) -> None:
    server.behaviour = say(message)

    with pytest.raises(kind_of_error):
        client.generate("a cat")
    with pytest.raises(kind_of_error):
        client.events("a cat")
    assert wait_until(lambda: server.ended == 2)
    assert not server.cancelled.is_set()


def test_no_answer_within_the_timeout(client: Face, server: WireServer) -> None:
    server.behaviour = stay
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        client.generate("a cat", timeout=0.3)

    assert 0.25 < time.monotonic() - start < BOUND_S
    assert (caught.value.field, caught.value.text) == ("timeout", "no answer within 0.3 s")
    assert caught.value.request_id == server.requests[0].id
    assert server.cancelled.wait(BOUND_S)


def test_stream_that_ends_without_an_answer(client: Face, server: WireServer) -> None:
    server.behaviour = lambda request, context: iter([step(1, 8), end()])
    with pytest.raises(ServerError, match="without a final answer"):
        client.generate("a cat")


def test_nobody_at_the_address(kind: Callable[[str], Face]) -> None:
    port = unused_port()
    with pytest.raises(ConnectionFailed, match=str(port)) as caught:
        kind(f"grpc://127.0.0.1:{port}").generate("a cat", timeout=BOUND_S)
    assert caught.value.code == "CONNECTION_FAILED"


def test_somebody_who_accepts_and_never_speaks(kind: Callable[[str], Face]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(FluxError) as caught:
            kind(f"grpc://127.0.0.1:{listener.getsockname()[1]}").generate("a cat", timeout=0.5)
    assert isinstance(caught.value, DeadlineExceeded | ConnectionFailed)


def test_server_that_stops_in_the_middle(client: Face, server: WireServer) -> None:
    def stop_soon(request: Any, context: Any) -> Iterator[Any]:
        threading.Thread(target=server.stop).start()
        yield from stay(request, context)

    server.behaviour = stop_soon
    with pytest.raises(FluxError) as caught:
        client.generate("a cat", timeout=BOUND_S)
    assert isinstance(caught.value, Cancelled | ConnectionFailed)


def test_server_that_comes_back_is_found_again() -> None:
    with FluxClient(f"grpc://127.0.0.1:{unused_port()}") as client:
        for _ in range(3):
            with pytest.raises(ConnectionFailed):
                client.generate("a cat")
        server = WireServer(int(client.url.rpartition(":")[2]))
        server.behaviour = draw
        try:
            assert wait_until(lambda: bool(client.health()))
            assert client.generate("a cat").seeds == (7,)
        finally:
            server.stop()


# --- generate_many


def test_generate_many_keeps_the_order_and_the_bound(client: Face, server: WireServer) -> None:
    three_here = threading.Barrier(3, timeout=BOUND_S)

    def later_first(request: Any, context: Any) -> Iterator[Any]:
        three_here.wait()
        time.sleep(0.03 / (1 + int(prompts_of(request)[0])))
        yield from draw(request, context)

    server.behaviour = later_first
    prompts = [str(number) for number in range(12)]
    answers = client.generate_many(iter(prompts), concurrency=3)

    assert [answer.prompt for answer in answers if isinstance(answer, Result)] == prompts
    assert server.most_at_once == 3


def test_one_failure_does_not_lose_the_others(client: Face, server: WireServer) -> None:
    def refuse_some(request: Any, context: Any) -> Iterator[Any]:
        if prompts_of(request) == ["bad"]:
            return say("FLUX_INVALID_ARGUMENT: prompt: is bad [request 1]")(request, context)
        return draw(request, context)

    server.behaviour = refuse_some
    answers = client.generate_many(["one", "bad", 7, "two"])

    assert [type(answer) for answer in answers] == [Result, InvalidArgument, InvalidArgument, Result]


def test_generate_many_of_nothing(client: Face) -> None:
    assert client.generate_many([]) == []


@pytest.mark.parametrize("concurrency", [0, -1])
def test_generate_many_needs_some_concurrency(client: Face, concurrency: int) -> None:
    with pytest.raises(InvalidArgument, match="concurrency"):
        client.generate_many(["one"], concurrency=concurrency)


def test_mistake_of_the_program_is_raised_and_cancels_the_rest(client: Face, server: WireServer) -> None:
    server.behaviour = draw
    with pytest.raises(TypeError, match="'steps'"):
        client.generate_many(["one", "two"], steps=4)
    assert server.requests == []


# --- health


@pytest.mark.parametrize(("ready", "model"), [(True, True), (True, False), (False, False)])
def test_health(client: Face, server: WireServer, ready: bool, model: bool) -> None:
    server.server_ready, server.model_ready = ready, model

    assert client.health() == Health(True, ready, model)
    assert bool(client.health()) is (ready and model)


def test_health_of_nobody(kind: Callable[[str], Face]) -> None:
    health = kind(f"grpc://127.0.0.1:{unused_port()}").health()

    assert (health.live, health.ready, health.model_ready) == (False, False, False)
    assert "CONNECTION_FAILED" in health.detail


# --- giving up, closing, leaks


def test_cancelled_task_cancels_on_the_server(server: WireServer) -> None:
    server.behaviour = stay

    async def run() -> None:
        async with AsyncFluxClient(server.url) as client:
            task = asyncio.create_task(client.generate("a cat"))
            while not server.requests:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.cancelled.wait, BOUND_S)

    asyncio.run(run())


def test_cancelled_generate_many_cancels_all(server: WireServer) -> None:
    server.behaviour = stay

    async def run() -> None:
        async with AsyncFluxClient(server.url) as client:
            task = asyncio.create_task(client.generate_many(["a cat"] * 9, concurrency=3))
            while len(server.requests) < 3:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await no_task_left()
            assert await asyncio.to_thread(wait_until, lambda: server.at_once == 0)

    asyncio.run(run())
    assert len(server.requests) == 3


def test_interrupted_generate_many_cancels_all(server: WireServer) -> None:
    server.behaviour = stay

    def prompts() -> Iterator[str]:
        yield from ["a cat"] * 3
        assert wait_until(lambda: len(server.requests) == 3)
        raise KeyboardInterrupt

    start = time.monotonic()
    with FluxClient(server.url) as client, pytest.raises(KeyboardInterrupt):
        client.generate_many(prompts(), concurrency=3)
    assert time.monotonic() - start < BOUND_S
    assert wait_until(lambda: server.at_once == 0)


def test_interrupted_generate_cancels_on_the_server(server: WireServer) -> None:
    server.behaviour = stay

    def interrupt() -> None:
        if wait_until(lambda: bool(server.requests)):
            os.kill(os.getpid(), signal.SIGINT)

    with FluxClient(server.url) as client:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            client.generate("a cat")
        assert server.cancelled.wait(BOUND_S)


def test_closing_the_sync_client_gives_up_what_is_in_flight(server: WireServer) -> None:
    server.behaviour = stay
    client = FluxClient(server.url)
    stream = client.stream("a cat")
    next(stream)
    threading.Timer(0.05, client.close).start()
    with pytest.raises(Cancelled, match="closed"):
        next(stream)
    with pytest.raises(RuntimeError, match="closed"):
        client.generate("a cat")


def test_closing_the_async_client_gives_up_what_is_in_flight(server: WireServer) -> None:
    server.behaviour = stay

    async def run() -> None:
        client = AsyncFluxClient(server.url)
        task = asyncio.create_task(client.generate("a cat"))
        while not server.requests:
            await asyncio.sleep(0.005)
        await client.close()
        with pytest.raises(Cancelled, match="closed"):
            await task
        with pytest.raises(RuntimeError, match="closed"):
            await client.generate("a cat")

    asyncio.run(run())


def test_async_client_belongs_to_one_loop(server: WireServer) -> None:
    server.behaviour = draw
    client = AsyncFluxClient(server.url)  # also without a running loop

    async def run() -> None:
        await client.generate("a cat")

    asyncio.run(run())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(run())


def test_hundreds_at_once_leave_nothing_behind(server: WireServer) -> None:
    server.behaviour = draw_in_steps

    async def run() -> None:
        async with AsyncFluxClient(server.url) as client:
            results = await asyncio.gather(*(client.generate(str(number)) for number in range(300)))
            assert [result.prompt for result in results] == [str(number) for number in range(300)]
            assert await asyncio.to_thread(wait_until, lambda: server.ended == 300)
            assert await no_task_left()

    asyncio.run(run())
    assert not server.cancelled.is_set()


def test_cancelled_streams_leave_no_threads(server: WireServer) -> None:
    server.behaviour = stay
    with FluxClient(server.url) as client:
        next(client.stream("warm up"))
        before = {thread for thread in threading.enumerate() if "ThreadPoolExecutor" not in thread.name}
        for _ in range(20):
            with_events = client.stream("a cat")
            next(with_events)
            with_events.close()
        assert wait_until(
            lambda: (
                len([thread for thread in threading.enumerate() if "ThreadPoolExecutor" not in thread.name])
                <= len(before)
            )
        )


# --- the two are alike


def public(kind: type) -> dict[str, list[inspect.Parameter]]:
    return {
        name: list(inspect.signature(method).parameters.values())
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def test_sync_and_async_have_the_same_methods() -> None:
    assert public(FluxClient) == public(AsyncFluxClient)
    assert {"generate", "stream", "generate_many", "health", "close"} <= set(public(FluxClient))
