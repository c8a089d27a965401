"""Proxies between that do not wait for the answer: the next attempt would be drawn for nobody, too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from fluxclient import ConnectionFailed, FluxError, InvalidArgument
from tests.unit.client.fakes import proxy
from tests.unit.client.fakes.answers import step
from tests.unit.client.fakes.behaviours import draw_in_steps
from tests.unit.client.fakes.faces import Face
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.fakes.http_server import HttpServer
from tests.unit.client.fakes.proxy import Proxy

LONG_S = 0.2
NAMES_THEM = r"cut off after \d+\.\d s \(.*\): the timeout of a proxy .*\bEnvoy: .*\bnginx: .*\bHAProxy: "


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("transport.proxies", "retries"):
        monkeypatch.setattr(f"fluxclient.{place}.LONG_S", LONG_S)


@contextmanager
def standing(server: Any) -> Iterator[Any]:
    try:
        yield server
    finally:
        server.stop()


def expect_cut(ask: Callable[[], Any]) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed, match=NAMES_THEM) as caught:
        ask()
    assert (caught.value.code, caught.value.field) == ("CONNECTION_FAILED", "proxy")
    assert len(caught.value.request_id) == 32
    return caught.value


@pytest.mark.parametrize("number", [408, 504])
def test_timeout_that_a_proxy_of_grpc_says(kind: Callable[..., Face], number: int) -> None:
    with standing(Proxy(proxy.status(number))) as between:
        expect_cut(lambda: kind(between.url).generate("a cat"))
        assert between.requests == 1


@pytest.mark.parametrize("number", [408, 504])
def test_timeout_that_a_proxy_of_http_says(kind: Callable[..., Face], number: int) -> None:
    with standing(HttpServer()) as server:
        server.proxy_says = (number, b"upstream request timeout")
        for prompts in ("one", ["one", "two"]):
            expect_cut(lambda prompts=prompts: kind(server.url).generate(prompts))  # type: ignore[misc]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_timeout_that_envoy_says(kind: Callable[..., Face], code: grpc.StatusCode) -> None:
    def give_up(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield step(1, 8)
        context.abort(code, "upstream request timeout")

    with standing(WireServer()) as server:
        server.behaviour = give_up
        for ask in (kind(server.url).generate, kind(server.url).events):
            expect_cut(lambda ask=ask: ask("a cat"))  # type: ignore[misc]
        assert len(server.requests) == 2


@pytest.mark.parametrize("code", [0, 2, 8])
def test_stream_that_is_reset_after_long(kind: Callable[..., Face], code: int) -> None:
    with standing(Proxy(proxy.reset(code), wait_s=2 * LONG_S)) as between:
        error = expect_cut(lambda: kind(between.url).generate("a cat"))
        assert "RST_STREAM" in error.text
        assert between.requests == 1


def test_stream_that_is_reset_at_once_is_no_timeout(kind: Callable[..., Face], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxclient.transport.proxies.LONG_S", 1000.0)
    with standing(Proxy(proxy.reset(2))) as between, pytest.raises(FluxError) as caught:
        kind(between.url).generate("a cat")
    assert caught.value.field != "proxy"


def cut_after(seconds: list[float]) -> Any:
    """Breaks the connection of each request after its time; what comes then is drawn."""

    def behave(request: Any, context: Any) -> Iterator[Any]:
        if not seconds:
            yield from draw_in_steps(request, context)
            return
        yield step(1, 8)
        time.sleep(seconds.pop(0))
        raise BrokenPipeError

    return behave


def test_connection_that_breaks_twice_at_the_same_age(
    kind: Callable[..., Face], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxclient.retries.SAME_S", LONG_S)
    with standing(HttpServer()) as server:
        server.behaviour = cut_after([2 * LONG_S, 2 * LONG_S, 2 * LONG_S])
        expect_cut(lambda: kind(server.url, retries=5).generate("a cat"))
        assert len(server.requests) == 2


def test_connections_that_break_at_any_age_are_made_anew(
    kind: Callable[..., Face], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxclient.retries.SAME_S", LONG_S)
    with standing(HttpServer()) as server:
        server.behaviour = cut_after([2 * LONG_S, 5 * LONG_S])
        assert kind(server.url, retries=5).generate("a cat").seeds == (7,)
        assert len(server.requests) == 3


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_what_is_too_large_for_a_proxy_is_sent_once(kind: Callable[..., Face], protocol: str) -> None:
    with standing(Proxy(proxy.status(413)) if protocol == "grpc" else HttpServer()) as server:
        if protocol == "http":
            server.proxy_says = (413, b"<html>Request Entity Too Large</html>")
        with pytest.raises(InvalidArgument) as caught:
            kind(server.url).generate("a cat")
    assert caught.value.field == "request"


def test_error_that_is_too_long_for_grpc_is_no_lack_of_room(kind: Callable[..., Face]) -> None:
    def explain_at_length(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield step(1, 8)
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "x" * 20_000)

    with standing(WireServer()) as server:
        server.behaviour = explain_at_length
        with pytest.raises(FluxError, match="metadata size exceeds") as caught:
            kind(server.url).generate("a cat")
        assert caught.value.code == "INTERNAL"
        assert len(server.requests) == 1
