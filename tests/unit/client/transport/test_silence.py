"""A server that takes a request and says no more, as Triton does when the process of the model dies."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from fluxclient import ConnectionFailed, DeadlineExceeded, FluxClient, InvalidArgument, Progress, Result
from fluxclient.transport.silence import UPLOAD_BYTES_PER_S
from tests.unit.client.fakes.answers import error, step
from tests.unit.client.fakes.behaviours import BOUND_S, draw, draw_in_steps, prompts_of, stay, stay_silently
from tests.unit.client.fakes.faces import Face
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.fakes.http_server import HttpServer
from tests.unit.client.fakes.model import Behaviour

Server = WireServer | HttpServer
SILENCE_S = 0.4
EACH_SILENCE = pytest.mark.parametrize("behaviour", [stay_silently, stay], ids=["from the start", "after a step"])


def first(behaviour: Behaviour, then: Behaviour = draw_in_steps) -> Behaviour:
    """The first request of each prompt meets another behaviour than those after it."""
    met: set[str] = set()

    def behave(request: Any, context: Any) -> Iterator[Any]:
        (prompt,) = set(prompts_of(request))
        known = prompt in met
        met.add(prompt)
        yield from (then if known else behaviour)(request, context)

    return behave


def alive(seconds: float) -> Behaviour:
    """Signs of life for so long, and then the picture."""

    def behave(request: Any, context: Any) -> Iterator[Any]:
        end_at = time.monotonic() + seconds
        while time.monotonic() < end_at:
            yield step(0, 8)
            time.sleep(SILENCE_S / 10)
        yield from draw(request, context)

    return behave


def late(seconds: float) -> Behaviour:
    """The picture, after so long without a word."""

    def behave(request: Any, context: Any) -> Iterator[Any]:
        time.sleep(seconds)
        yield from draw(request, context)

    return behave


@EACH_SILENCE
def test_what_the_server_has_forgotten_is_sent_again(
    kind: Callable[..., Face], either: Server, behaviour: Behaviour
) -> None:
    either.behaviour = first(behaviour)
    assert kind(either.url, silence=SILENCE_S).generate("a cat", timeout=BOUND_S).seeds == (7,)

    assert len(either.requests) == 2
    assert either.cancelled.is_set(), "the first is given up"


def test_each_of_many_is_sent_again(kind: Callable[..., Face], either: Server) -> None:
    either.behaviour = first(stay)
    answers = kind(either.url, silence=SILENCE_S).generate_many([str(number) for number in range(6)])

    assert [type(answer) for answer in answers] == [Result] * 6
    assert len(either.requests) == 12


def test_several_prompts_in_one_request(kind: Callable[..., Face]) -> None:
    server = WireServer()
    server.behaviour = first(stay_silently, draw)
    try:
        assert len(kind(server.url, silence=SILENCE_S).generate(["a cat", "a cat"], timeout=BOUND_S)) == 2
    finally:
        server.stop()


def test_several_prompts_over_http_have_no_signs_of_life(kind: Callable[..., Face]) -> None:
    server = HttpServer()
    server.behaviour = late(2 * SILENCE_S)
    try:
        assert len(kind(server.url, silence=SILENCE_S).generate(["a cat", "a dog"])) == 2
        assert len(server.requests) == 1
    finally:
        server.stop()


@EACH_SILENCE
def test_silence_is_an_error_of_its_own(kind: Callable[..., Face], either: Server, behaviour: Behaviour) -> None:
    either.behaviour = behaviour
    start = time.monotonic()
    with pytest.raises(ConnectionFailed, match=r"no sign of life for 0\.4 s: .* reached, .* died, .* proxy ") as caught:
        kind(either.url, silence=SILENCE_S, retries=0).generate("a cat")

    assert SILENCE_S <= time.monotonic() - start < BOUND_S
    assert (caught.value.code, caught.value.field) == ("CONNECTION_FAILED", "silence")
    assert caught.value.request_id == either.requests[0].id
    assert either.cancelled.wait(BOUND_S)


def test_the_time_is_told_that_an_upload_was_given(kind: Callable[..., Face], protocol: str, either: Server) -> None:
    """gRPC does not tell when a request has arrived."""
    either.behaviour = stay_silently
    file = io.BytesIO()
    Image.effect_noise((500, 500), 100).save(file, "PNG")
    image = file.getvalue()
    start = time.monotonic()
    with pytest.raises(ConnectionFailed) as caught:
        kind(either.url, silence=SILENCE_S, retries=0).generate("a cat", image=image)
    waited_s = time.monotonic() - start
    told_s = float(caught.value.text.partition("no sign of life for ")[2].partition(" s: ")[0])
    upload_s = len(image) / UPLOAD_BYTES_PER_S if protocol == "grpc" else 0.0

    assert told_s == pytest.approx(SILENCE_S + upload_s, abs=0.1)
    assert waited_s > told_s - 0.1


def test_a_stream_that_has_shown_a_step_is_not_begun_anew(kind: Callable[..., Face], either: Server) -> None:
    either.behaviour = first(stay)
    with pytest.raises(ConnectionFailed, match="no sign of life"):
        kind(either.url, silence=SILENCE_S).events("a cat")
    assert len(either.requests) == 1


def test_a_stream_that_has_shown_nothing_is(kind: Callable[..., Face], either: Server) -> None:
    either.behaviour = first(stay_silently)
    events = kind(either.url, silence=SILENCE_S).events("a cat")
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2]


def test_signs_of_life_are_enough(kind: Callable[..., Face], either: Server) -> None:
    either.behaviour = alive(2 * SILENCE_S)
    assert kind(either.url, silence=SILENCE_S).generate("a cat").seeds == (7,)
    assert len(either.requests) == 1


def test_signs_of_life_do_not_outlast_the_timeout(kind: Callable[..., Face], either: Server) -> None:
    either.behaviour = alive(BOUND_S)
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        kind(either.url, silence=SILENCE_S).generate("a cat", timeout=2 * SILENCE_S)
    assert time.monotonic() - start < BOUND_S
    assert len(either.requests) == 1


def test_attempts_at_silence_do_not_outlast_the_timeout(kind: Callable[..., Face], either: Server) -> None:
    either.behaviour = stay_silently
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        kind(either.url, silence=0.5, retries=50).generate("a cat", timeout=1.2)
    assert time.monotonic() - start < BOUND_S
    assert len(either.requests) == 2


def test_a_server_without_signs_of_life_is_given_more_time_by_and_by(kind: Callable[..., Face], either: Server) -> None:
    either.behaviour = late(3 * SILENCE_S)
    assert kind(either.url, silence=SILENCE_S).generate("a cat").seeds == (7,)
    assert len(either.requests) == 3  # after 1, 2 and 4 times the silence


def test_silence_may_be_no_matter(kind: Callable[..., Face], either: Server) -> None:
    either.behaviour = late(SILENCE_S)
    assert kind(either.url, silence=None).generate("a cat").seeds == (7,)
    assert len(either.requests) == 1


def test_only_what_is_waited_for_counts(protocol: str, either: Server) -> None:
    """A caller may take its time between two events."""
    either.behaviour = draw_in_steps
    with FluxClient(either.url, silence=SILENCE_S) as client:
        events = []
        for event in client.stream("a cat"):
            time.sleep(1.5 * SILENCE_S)
            events.append(event)
    assert len(events) == 3
    assert len(either.requests) == 1


def test_an_answer_counts_whose_stream_does_not_end(kind: Callable[..., Face], either: Server) -> None:
    def stay_after_the_answer(request: Any, context: Any) -> Iterator[Any]:
        yield from draw(request, context)
        yield from stay_silently(request, context)

    either.behaviour = stay_after_the_answer
    assert kind(either.url, silence=SILENCE_S, timeout=None).generate("a cat").seeds == (7,)
    assert len(either.requests) == 1


def test_somebody_who_accepts_and_never_speaks(kind: Callable[..., Face], protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"{protocol}://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match="no sign of life"):
            kind(url, silence=SILENCE_S, retries=1, timeout=None).generate("a cat")


def test_an_error_counts_whose_stream_does_not_end(kind: Callable[..., Face], either: Server) -> None:
    def stay_after_the_error(request: Any, context: Any) -> Iterator[Any]:
        yield error("FLUX_INVALID_ARGUMENT: height: is 7 [request 1]")
        yield from stay_silently(request, context)

    either.behaviour = stay_after_the_error
    with pytest.raises(InvalidArgument, match="is 7"):
        kind(either.url, silence=SILENCE_S, timeout=None).generate("a cat")


@pytest.mark.parametrize("silence", [0, -1.0, float("nan"), float("inf"), "long", True])
def test_silence_must_be_seconds(kind: Callable[..., Face], silence: Any) -> None:
    with pytest.raises(InvalidArgument, match="silence"):
        kind("grpc://localhost", silence=silence).generate("a cat")
