"""What goes wrong arrives as its class, over both protocols and in both clients."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fluxclient import (
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    FluxError,
    InvalidArgument,
    NotFound,
    Overloaded,
    ServerError,
)
from tests.unit.client.fakes.answers import end, final, picture, step
from tests.unit.client.fakes.behaviours import BOUND_S, draw_in_steps, say, stay, stay_silently, unused_port, wait_until
from tests.unit.client.fakes.faces import Face
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.fakes.http_server import HttpServer
from tests.unit.client.fakes.model import FakeModel

Server = WireServer | HttpServer


@pytest.mark.parametrize(
    ("message", "kind_of_error", "code", "field"),
    [
        ("FLUX_INVALID_ARGUMENT: height: is 7 [request 1]", InvalidArgument, "INVALID_ARGUMENT", "height"),
        ("FLUX_DEADLINE_EXCEEDED: deadline: passed [request 1]", DeadlineExceeded, "DEADLINE_EXCEEDED", "deadline"),
        ("FLUX_OUT_OF_MEMORY: device: is full [request 1]", ServerError, "OUT_OF_MEMORY", "device"),
        ("Exceeds maximum queue size", Overloaded, "OVERLOADED", "queue"),
        ("Request for unknown model: 'flux' is not found", NotFound, "NOT_FOUND", "model"),
        ("Server not ready", ServerError, "UNAVAILABLE", "server"),
    ],
)
def test_error_of_the_server(
    kind: Callable[..., Face],
    either: Server,
    message: str,
    kind_of_error: type[FluxError],
    code: str,
    field: str,
) -> None:
    client = kind(either.url, retries=0)
    either.behaviour = say(message)

    for ask in (client.generate, client.events, lambda prompt: client.generate([prompt, prompt])):
        with pytest.raises(kind_of_error) as caught:
            ask("a cat")
        assert type(caught.value) is kind_of_error
        assert (caught.value.code, caught.value.field) == (code, field)
        assert caught.value.request_id == ("1" if "[request" in message else either.requests[-1].id)
        assert caught.value.__cause__ is not caught.value
    assert wait_until(lambda: either.ended == 3)
    assert not either.cancelled.is_set()


def test_error_after_some_steps(client: Face, either: FakeModel) -> None:
    def fail(request: Any, context: Any) -> Iterator[Any]:
        yield step(1, 8)
        yield from say("FLUX_DEADLINE_EXCEEDED: deadline: passed after 90 ms [request 1]")(request, context)

    either.behaviour = fail
    with pytest.raises(DeadlineExceeded, match="passed after 90 ms"):
        client.events("a cat")


@pytest.mark.parametrize("prompts", ["one", ["one", "two"]])
@pytest.mark.parametrize("behaviour", [stay, stay_silently])
def test_no_answer_within_the_timeout(client: Face, either: FakeModel, behaviour: Any, prompts: Any) -> None:
    either.behaviour = behaviour
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded) as caught:
        client.generate(prompts, timeout=0.5)

    assert 0.4 < time.monotonic() - start < BOUND_S
    assert (caught.value.field, caught.value.text) == ("timeout", "no answer within 0.5 s")
    assert caught.value.request_id == either.requests[0].id
    assert either.cancelled.wait(BOUND_S)


def test_stream_that_ends_without_an_answer(client: Face, either: FakeModel) -> None:
    either.behaviour = lambda request, context: iter([step(1, 8), end()])
    with pytest.raises(ServerError, match="without a final answer"):
        client.generate("a cat")


def test_answer_that_cannot_be_read(client: Face, either: FakeModel) -> None:
    either.behaviour = lambda request, context: iter([final([[b"no picture"]], [[1]])])
    with pytest.raises(ServerError, match="cannot be read") as caught:
        client.generate("a cat")
    assert (caught.value.field, caught.value.request_id) == ("answer", either.requests[0].id)


@pytest.mark.parametrize("prompts", ["one", ["one", "two"]])
@pytest.mark.parametrize(
    "body", [b"", b"<html>welcome</html>", b"[]", b"{}", b'{"outputs": 3}', b'{"outputs": [', b"\xff"]
)
def test_answer_of_http_that_is_none_of_tritons(kind: Callable[..., Face], prompts: Any, body: bytes) -> None:
    server = HttpServer()
    try:
        server.proxy_says = (200, body)
        with pytest.raises(ServerError) as caught:
            kind(server.url).generate(prompts)
        assert len(caught.value.request_id) == 32
    finally:
        server.stop()


@pytest.mark.parametrize("prompts", ["one", ["one", "two"]])
def test_error_that_comes_with_status_200(kind: Callable[..., Face], prompts: Any) -> None:
    server = HttpServer()
    try:
        server.proxy_says = (200, b'{"error": "FLUX_DEADLINE_EXCEEDED: deadline: passed [request 1]"}')
        with pytest.raises(DeadlineExceeded, match="passed"):
            kind(server.url).generate(prompts)
    finally:
        server.stop()


def without_contents(answer: Any) -> None:
    del answer.raw_output_contents[0]


def cut_short(answer: Any) -> None:
    answer.raw_output_contents[0] = answer.raw_output_contents[0][:2]


def of_another_shape(answer: Any) -> None:
    answer.outputs[0].shape[0] = 5


@pytest.mark.parametrize("spoil", [without_contents, cut_short, of_another_shape])
def test_answer_of_grpc_that_is_broken(kind: Callable[..., Face], spoil: Callable[[Any], None]) -> None:
    def draw_and_spoil(request: Any, context: Any) -> Iterator[Any]:
        answer = final([[picture()]], [[7]])
        spoil(answer.infer_response)
        yield answer

    server = WireServer()
    server.behaviour = draw_and_spoil
    try:
        with pytest.raises(ServerError, match="cannot be read"):
            kind(server.url).generate("a cat")
    finally:
        server.stop()


def test_nobody_at_the_address(kind: Callable[..., Face], protocol: str) -> None:
    port = unused_port()
    client = kind(f"{protocol}://127.0.0.1:{port}", retries=0)
    for ask in (lambda: client.generate("a cat", timeout=BOUND_S), client.statistics, client.load, client.unload):
        with pytest.raises(ConnectionFailed, match=str(port)) as caught:
            ask()
        assert (caught.value.code, caught.value.field) == ("CONNECTION_FAILED", "connection")


@pytest.mark.parametrize("prompts", ["one", ["one", "two"]])
def test_somebody_who_accepts_and_never_speaks(kind: Callable[..., Face], protocol: str, prompts: Any) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(FluxError) as caught:
            kind(f"{protocol}://127.0.0.1:{listener.getsockname()[1]}").generate(prompts, timeout=0.2)
    assert isinstance(caught.value, DeadlineExceeded | ConnectionFailed)


@pytest.mark.parametrize("prompts", ["one", ["one", "two"]])
def test_server_that_stops_in_the_middle(kind: Callable[..., Face], either: Server, prompts: Any) -> None:
    def stop_soon(request: Any, context: Any) -> Iterator[Any]:
        threading.Thread(target=either.stop).start()
        yield from stay(request, context)

    either.behaviour = stop_soon
    with pytest.raises(FluxError) as caught:
        kind(either.url, retries=0).generate(prompts, timeout=BOUND_S)
    assert isinstance(caught.value, Cancelled | ConnectionFailed)


@pytest.mark.parametrize(("status", "kind_of_error"), [(404, NotFound), (429, Overloaded), (502, ServerError)])
def test_what_a_proxy_says(kind: Callable[..., Face], status: int, kind_of_error: type[FluxError]) -> None:
    server = HttpServer()
    try:
        server.proxy_says = (status, b"<html>no</html>")
        for prompts in ("one", ["one", "two"]):
            with pytest.raises(kind_of_error, match="<html>no</html>") as caught:
                kind(server.url, retries=0).generate(prompts)
            assert caught.value.code == {502: "UNAVAILABLE"}.get(status, kind_of_error.codes[0])
    finally:
        server.stop()


def test_result_counts_more_than_what_comes_after_it(client: Face, either: FakeModel) -> None:
    def break_at_the_end(request: Any, context: Any) -> Iterator[Any]:
        yield from draw_in_steps(request, context)
        yield from say("FLUX_INTERNAL: server: broke [request 1]")(request, context)

    either.behaviour = break_at_the_end
    assert client.generate("a cat").seeds == (7,)
