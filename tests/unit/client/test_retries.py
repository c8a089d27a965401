"""What is tried again, how often, and for how long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fluxclient import (
    AsyncFluxClient,
    Cancelled,
    DeadlineExceeded,
    FluxClient,
    InvalidArgument,
    Overloaded,
    Progress,
    Result,
)
from fluxclient.errors import error_from
from fluxclient.inputs.request import build_request
from fluxclient.retries import FIRST_PAUSE_S, MAX_PAUSE_S, Attempts, may_be_tried_again
from tests.unit.client.fakes.answers import error, step
from tests.unit.client.fakes.behaviours import (
    BOUND_S,
    draw_in_steps,
    inputs_of,
    say,
    stay,
    wait_until,
)
from tests.unit.client.fakes.faces import Face
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.fakes.http_server import HttpServer

Server = WireServer | HttpServer
FULL = "FLUX_OVERLOADED: max_in_flight: no room [request 1]"
SAFE = [
    FULL,
    "Exceeds maximum queue size",
    "FLUX_CANCELLED: server: the model is being unloaded [request 1]",
    "Server is stopping, scheduler for model has stopped accepting new inference requests",
    "Server not ready",
    "Request for unknown model: 'flux' has no available versions",
    "Request for unknown model: 'flux' version 1 is not at ready state",
    "Stub process 'flux_0_0' is not healthy.",
    "FLUX_INTERNAL: device: failed and is being restarted; send the request again [request 1]",
]
USELESS = [
    "FLUX_INVALID_ARGUMENT: height: is 7 [request 1]",
    "FLUX_NOT_FOUND: lora: is not there [request 1]",
    "FLUX_DEADLINE_EXCEEDED: deadline: passed [request 1]",
    "FLUX_CANCELLED: request: was cancelled by the caller [request 1]",
    "FLUX_OUT_OF_MEMORY: device: is full [request 1]",
    "FLUX_INTERNAL: server: broke [request 1]",
    "Request for unknown model: 'flux' is not found",
]


def fail_first(times: int, message: str, then: Any = draw_in_steps, after_step: int | None = None) -> Any:
    left = iter(range(times))
    turn = threading.Lock()

    def behave(request: Any, context: Any) -> Iterator[Any]:
        with turn:
            fails = next(left, None) is not None
        if fails and after_step is not None:
            yield step(after_step, 2)
        yield from iter([error(message)]) if fails else then(request, context)

    return behave


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of hardly any time."""
    monkeypatch.setattr("fluxclient.retries.FIRST_PAUSE_S", 0.02)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that no test waits for."""
    monkeypatch.setattr("fluxclient.retries.FIRST_PAUSE_S", 1000.0)
    monkeypatch.setattr("fluxclient.retries.MAX_PAUSE_S", 1000.0)


@pytest.mark.parametrize("message", SAFE)
def test_what_is_safe(message: str) -> None:
    assert may_be_tried_again(error_from(message))


@pytest.mark.parametrize("message", USELESS)
def test_what_is_useless(message: str) -> None:
    assert not may_be_tried_again(error_from(message))


def test_next_attempt_is_a_new_request_in_the_time_that_is_left(client: Face, either: Server) -> None:
    either.behaviour = fail_first(1, FULL)
    result = client.generate("a cat", timeout=BOUND_S)

    first, second = either.requests
    assert first.id != second.id, "an id is sent once"
    assert result.request_id == second.id
    (first_ms,), (second_ms,) = inputs_of(first)["deadline_ms"], inputs_of(second)["deadline_ms"]
    assert first_ms == BOUND_S * 1000
    assert second_ms <= first_ms - FIRST_PAUSE_S * 1000 * 0.5


def test_what_is_useless_is_sent_once(client: Face, either: Server) -> None:
    either.behaviour = say(USELESS[0])
    with pytest.raises(InvalidArgument):
        client.generate("a cat")
    assert len(either.requests) == 1


@pytest.mark.usefixtures("soon")
def test_several_prompts_and_streams_are_tried_again(client: Face, either: Server) -> None:
    either.behaviour = fail_first(1, FULL)
    assert len(client.generate(["one", "two"])) == 2
    either.behaviour = fail_first(1, FULL)
    assert len(client.events("a cat")) == 3
    either.behaviour = fail_first(2, FULL)
    assert [type(answer) for answer in client.generate_many(["one", "two", "three"])] == [Result] * 3


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.usefixtures("soon")
def test_at_most_so_often(kind: Callable[..., Face], either: Server, retries: int) -> None:
    either.behaviour = say(FULL)
    with pytest.raises(Overloaded):
        kind(either.url, retries=retries).generate("a cat")
    assert len(either.requests) == 1 + retries


def test_retries_cannot_be_negative(kind: Callable[..., Face]) -> None:
    with pytest.raises(InvalidArgument, match="retries"):
        kind("grpc://localhost", retries=-1).generate("a cat")


def test_not_beyond_the_timeout(kind: Callable[..., Face], either: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxclient.retries.FIRST_PAUSE_S", 1.0)
    either.behaviour = say(FULL)
    start = time.monotonic()
    with pytest.raises(Overloaded):
        kind(either.url, retries=1000).generate("a cat", timeout=1.6)
    assert time.monotonic() - start < 1.6
    assert len(either.requests) >= 2


@pytest.mark.usefixtures("soon")
def test_last_attempt_has_only_the_time_that_is_left(kind: Callable[..., Face], either: Server) -> None:
    either.behaviour = fail_first(1, FULL, then=stay)
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        kind(either.url).generate("a cat", timeout=0.2)
    assert time.monotonic() - start < BOUND_S


def test_stream_that_has_shown_something_is_not_begun_anew(client: Face, either: Server) -> None:
    either.behaviour = fail_first(1, SAFE[2], after_step=1)
    with pytest.raises(Cancelled, match="unloaded"):
        client.events("a cat")
    assert len(either.requests) == 1


@pytest.mark.usefixtures("soon")
def test_a_stream_that_only_waited_is_tried_again(client: Face, either: Server) -> None:
    either.behaviour = fail_first(1, SAFE[2], after_step=0)
    assert [event.step for event in client.events("a cat") if isinstance(event, Progress)] == [0, 1, 2]
    assert len(either.requests) == 2


@pytest.mark.usefixtures("soon")
def test_progress_that_nobody_saw_does_not_count(client: Face, either: Server) -> None:
    either.behaviour = fail_first(1, SAFE[2], after_step=1)
    assert client.generate("a cat").seeds == (7,)
    assert len(either.requests) == 2


@pytest.mark.usefixtures("never")
def test_closing_the_sync_client_ends_the_pause(either: Server) -> None:
    either.behaviour = say(FULL)
    client = FluxClient(either.url, timeout=None)

    def close() -> None:
        wait_until(lambda: either.ended == 1)
        client.close()

    threading.Thread(target=close).start()
    with pytest.raises(Cancelled) as caught:
        client.generate("a cat")
    assert caught.value.field == "client"


@pytest.mark.usefixtures("never")
def test_closing_the_async_client_ends_the_pause(either: Server) -> None:
    either.behaviour = say(FULL)

    async def run() -> None:
        client = AsyncFluxClient(either.url, timeout=None)
        task = asyncio.create_task(client.generate("a cat"))
        assert await asyncio.to_thread(wait_until, lambda: either.ended == 1)
        await client.close()
        with pytest.raises(Cancelled) as caught:
            await task
        assert caught.value.field == "client"

    asyncio.run(run())


@pytest.mark.usefixtures("never")
def test_interrupting_generate_many_ends_the_pauses(either: Server) -> None:
    either.behaviour = say(FULL)

    def prompts() -> Iterator[str]:
        yield from ["a cat"] * 2
        assert wait_until(lambda: either.ended == 2)
        raise KeyboardInterrupt

    start = time.monotonic()
    with FluxClient(either.url, timeout=None) as client, pytest.raises(KeyboardInterrupt):
        client.generate_many(prompts())
    assert time.monotonic() - start < BOUND_S
    assert len(either.requests) == 2


def test_pauses_grow_and_differ() -> None:
    attempts = Attempts(build_request(("a cat",), {}, timeout_s=None), retries=20)
    pauses = []
    for _ in range(20):
        attempts.next()
        pauses.append(attempts.pause_s(Overloaded("no room")))

    for number, pause_s in enumerate(pauses):
        longest = min(FIRST_PAUSE_S * 2**number, MAX_PAUSE_S)
        assert longest / 2 <= pause_s <= longest
    assert len(set(pauses[-10:])) == 10
    attempts.next()
    with pytest.raises(Overloaded):
        attempts.pause_s(Overloaded("no room"))


def test_an_id_is_sent_once_also_without_a_timeout() -> None:
    attempts = Attempts(build_request(("a cat",), {}, timeout_s=None), retries=1)
    first, second = attempts.next(), attempts.next()

    assert first.id != second.id
    assert second.timeout_s is None


def test_deadline_that_is_switched_off_stays_off() -> None:
    attempts = Attempts(build_request(("a cat",), {"deadline_ms": 0}, timeout_s=60.0), retries=1)
    attempts.next()
    second = attempts.next()

    assert second.deadline_ms == 0
    assert second.inputs["deadline_ms"].tolist() == [[0]]
    assert second.timeout_s is not None and second.timeout_s < 60
