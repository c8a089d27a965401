"""A full server: who is refused, who waits, whose time runs out, who goes first. And no request is ever forgotten."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc

from tests.server import wire
from tests.server.answers import Answer
from tests.server.reference import Drawing, Reference
from tests.server.servers import Measured, environment, grpc, http, settled, started, until, until_idle
from tests.server.wire import GrpcStream
from tools.triton.server import TritonServer

MAX_BATCH = 2
MAX_IN_FLIGHT = 4
SHORT = Drawing("soon done", steps=2, width=256, height=256)
ENDLESS = {"prompt": "takes long", "num_inference_steps": 1000, "width": 256, "height": 256}

ASKS: list[tuple[Callable[..., Answer], Callable[[TritonServer], str]]] = [
    (wire.grpc_stream, grpc),
    (wire.grpc_infer, grpc),
    (wire.http_infer, http),
]
UNAVAILABLE = {wire.grpc_stream: None, wire.grpc_infer: "StatusCode.UNAVAILABLE", wire.http_infer: "503"}
"""An error on a stream has no status in Triton's protocol."""


@pytest.fixture(scope="module")
def small(checkpoint: Path) -> Iterator[TritonServer]:
    """Two images are drawn at a time, two more may wait."""
    settings = environment(
        model=str(checkpoint), max_batch=str(MAX_BATCH), max_in_flight=str(MAX_IN_FLIGHT), default_steps="2"
    )
    with started(environment=settings) as server:
        yield server


def is_stepping(answer: Answer) -> bool:
    return any(event.kind == "progress" for event in answer.events)


@contextmanager
def occupied(server: TritonServer, waiting: int = 0) -> Iterator[None]:
    """All places in the batch are taken, for longer than any test, and so many in line."""
    with GrpcStream(grpc(server)) as stream:
        for n in range(MAX_BATCH):
            stream.send(f"running {n}", {**ENDLESS, "progress": True})
        for n in range(MAX_BATCH):
            stream.wait_for(f"running {n}", is_stepping)
        for n in range(waiting):
            stream.send(f"waiting {n}", ENDLESS)
        if waiting:
            assert settled(server).total("flux_jobs_waiting") == waiting
        yield
        assert stream.ended() == [], "the places were to be taken all the time"
    until_idle(server)


# ---- overload ----


def overloaded(request_id: str) -> str:
    """The message, as a regular expression."""
    problem = rf"holds \d+ images, max_in_flight is {MAX_IN_FLIGHT}; try again later"
    return rf"FLUX_OVERLOADED: queue: {problem} \[request {request_id}\]"


def test_a_crowd_on_a_stream_is_answered_to_the_last_one(small: TritonServer, reference: Reference) -> None:
    drawings = {f"{n}": Drawing(f"crowd {n}", steps=25, seed=n) for n in range(30)}
    with GrpcStream(grpc(small)) as stream:
        for name, drawing in drawings.items():
            stream.send(name, drawing.inputs)
        answers = {name: stream.answer(name) for name in drawings}
        assert stream.strays == []
    check_crowd(drawings, answers, None, reference)
    after = until_idle(small)
    refused = sum(1 for answer in answers.values() if answer.error)
    assert after.total("flux_requests_total", {"outcome": "overloaded"}) >= refused


@pytest.mark.parametrize(("infer", "address"), ASKS[1:])
def test_a_crowd_at_the_facade_is_answered_to_the_last_one(
    infer: Callable[..., Answer],
    address: Callable[[TritonServer], str],
    small: TritonServer,
    reference: Reference,
) -> None:
    drawings = {f"{n}": Drawing(f"crowd {n}", steps=25, seed=n) for n in range(24)}

    def ask(name: str) -> Answer:
        return infer(address(small), drawings[name].inputs, request_id=name)

    with ThreadPoolExecutor(len(drawings)) as pool:
        answers = dict(zip(drawings, pool.map(ask, drawings), strict=True))
    check_crowd(drawings, answers, UNAVAILABLE[infer], reference)
    until_idle(small)


def test_a_crowd_at_the_facade_waits_in_flux_where_priorities_count(triton: TritonServer) -> None:
    """Triton has 32 threads for requests from one model to another, which are free again once flux has taken one."""
    crowd = 40
    client = tritonclient.grpc.InferenceServerClient(grpc(triton))
    inputs = wire.infer_inputs(tritonclient.grpc, ENDLESS)
    try:
        calls = [client.async_infer("flux_unary", inputs, lambda result, error: None) for _ in range(crowd)]
        in_flight = ("flux_jobs_running", "flux_jobs_waiting")
        until(lambda: sum(Measured(triton).total(metric) for metric in in_flight) == crowd, "all of them in flux")
        for call in calls:
            call.cancel()
        until_idle(triton)
    finally:
        client.close()


def check_crowd(
    drawings: dict[str, Drawing], answers: dict[str, Answer], status: str | None, reference: Reference
) -> None:
    refused = {name: answer for name, answer in answers.items() if answer.error}
    assert refused, "so many at once were to be too many"
    for name, answer in refused.items():
        assert re.fullmatch(overloaded(name), str(answer.error)), answer.error
        assert answer.status == status
    assert len(answers) - len(refused) >= MAX_IN_FLIGHT, "as many as it has room for are accepted"
    for name, answer in answers.items():
        if not answer.error:
            reference.holds_answer([drawings[name]], answer)


@pytest.mark.parametrize(("ask", "address"), ASKS)
def test_there_is_room_again_when_others_have_left(
    ask: Callable[..., Answer], address: Callable[[TritonServer], str], small: TritonServer, reference: Reference
) -> None:
    with occupied(small, waiting=MAX_IN_FLIGHT - MAX_BATCH):
        answer = ask(address(small), SHORT.inputs, request_id="too-much")
        assert re.fullmatch(overloaded("too-much"), str(answer.error)), answer
        assert answer.status == UNAVAILABLE[ask]
    reference.holds_answer([SHORT], ask(address(small), SHORT.inputs))


def test_overload_over_generate(small: TritonServer) -> None:
    with occupied(small, waiting=MAX_IN_FLIGHT - MAX_BATCH):
        for model in ("flux", "flux_unary"):
            status, answer = wire.generate(http(small), {**SHORT.inputs, "id": "too-much"}, model=model)
            assert re.fullmatch(overloaded("too-much"), answer["error"]), answer
            assert status >= 400


# ---- deadlines ----

WHILE_WAITING = r"FLUX_DEADLINE_EXCEEDED: deadline: passed after \d+ ms, while waiting \[request late\]"
IN_FLIGHT = r"FLUX_DEADLINE_EXCEEDED: deadline: passed after (\d+) ms, at step (\d+) of 1000 \[request late\]"
GIVEN_UP = ("flux_dropped_images_total", {"cause": "deadline_exceeded"})

DEADLINES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # what: (inputs, options of the protocol)
    "the input": ({"deadline_ms": 1000}, {}),
    "the protocol's timeout": ({}, {"timeout": 1_000_000}),
    "the sooner of both, the input": ({"deadline_ms": 1000}, {"timeout": 600_000_000}),
    "the sooner of both, the timeout": ({"deadline_ms": 600_000}, {"timeout": 1_000_000}),
}


@pytest.mark.parametrize(("ask", "address"), ASKS)
@pytest.mark.parametrize("what", DEADLINES)
def test_time_runs_out_in_flight(
    what: str, ask: Callable[..., Answer], address: Callable[[TritonServer], str], small: TritonServer
) -> None:
    inputs, options = DEADLINES[what]
    answer = ask(address(small), {**ENDLESS, **inputs}, request_id="late", **options)
    told = re.fullmatch(IN_FLIGHT, str(answer.error))
    assert told, answer.error
    assert int(told[1]) >= 1000
    assert 0 < int(told[2]) < 1000
    assert answer.status == UNAVAILABLE[ask]


@pytest.mark.parametrize(("ask", "address"), ASKS)
def test_time_runs_out_while_waiting(
    ask: Callable[..., Answer], address: Callable[[TritonServer], str], small: TritonServer
) -> None:
    with occupied(small):
        by_input = ask(address(small), {**SHORT.inputs, "deadline_ms": 300}, request_id="late")
        by_timeout = ask(address(small), SHORT.inputs, request_id="late", timeout=300_000)
    for answer in (by_input, by_timeout):
        assert re.fullmatch(WHILE_WAITING, str(answer.error)), answer
        assert answer.status == UNAVAILABLE[ask]


@pytest.mark.parametrize("model", ["flux", "flux_unary"])
def test_timeout_of_generate(model: str, small: TritonServer) -> None:
    status, answer = wire.generate(http(small), {**ENDLESS, "id": "late", "timeout": 1_000_000}, model=model)
    assert re.fullmatch(IN_FLIGHT, answer["error"]), answer
    assert status >= 400
    with occupied(small):
        status, answer = wire.generate(http(small), {**SHORT.inputs, "id": "late", "timeout": 300_000}, model=model)
    assert re.fullmatch(WHILE_WAITING, answer["error"]), answer
    assert status >= 400


def test_whose_time_ran_out_takes_no_more_steps(small: TritonServer) -> None:
    before = until_idle(small)
    answer = wire.grpc_stream(grpc(small), {**ENDLESS, "num_images_per_prompt": 2, "deadline_ms": 1000})
    assert str(answer.error).startswith("FLUX_DEADLINE_EXCEEDED: ")
    after = until_idle(small)
    assert after.total(*GIVEN_UP) - before.total(*GIVEN_UP) == 2
    assert after.total("flux_steps_total") - before.total("flux_steps_total") < 2 * 1000
    assert after.total("flux_images_total") == before.total("flux_images_total")


def test_who_shares_the_batch_is_not_harmed(small: TritonServer, reference: Reference) -> None:
    drawing = Drawing("in time", steps=60, seed=4)
    with GrpcStream(grpc(small)) as stream:
        stream.send("late", {**Drawing("late", steps=1000).inputs, "deadline_ms": 1000, "progress": True})
        stream.wait_for("late", lambda answer: answer.ended or is_stepping(answer))
        stream.send("in time", {**drawing.inputs, "deadline_ms": 600_000})
        assert str(stream.answer("late").error).startswith("FLUX_DEADLINE_EXCEEDED: ")
        reference.holds_answer([drawing], stream.answer("in time"))


def test_a_deadline_of_zero_is_none(small: TritonServer, reference: Reference) -> None:
    answer = wire.grpc_stream(grpc(small), {**SHORT.inputs, "deadline_ms": 0}, timeout=0)
    reference.holds_answer([SHORT], answer)


# ---- priorities ----


@pytest.mark.parametrize(("priority", "goes_first"), [(1, True), (0, True), (4, False)])
def test_the_urgent_overtake(priority: int, goes_first: bool, small: TritonServer, reference: Reference) -> None:
    """Priority 0 stands for 2. Who had to make room goes on where it was, and gets its own picture."""
    patient = [Drawing("patient one", steps=150, seed=1), Drawing("patient two", steps=160, seed=2)]
    urgent = Drawing("urgent", steps=3)
    with GrpcStream(grpc(small)) as stream:
        for drawing in patient:
            stream.send(drawing.prompt, {**drawing.inputs, "priority": 4, "progress": True})
        for drawing in patient:
            stream.wait_for(drawing.prompt, is_stepping)
        stream.send("last", {**urgent.inputs, "priority": priority})
        last = stream.answer("last")
        answers = [stream.answer(drawing.prompt) for drawing in patient]
    reference.holds_answer([urgent], last)
    for drawing, answer in zip(patient, answers, strict=True):
        reference.holds_answer([drawing], answer)
    assert (last.final.arrived_s < min(answer.final.arrived_s for answer in answers)) == goes_first


def test_the_line_is_drawn_by_priority_then_by_arrival(small: TritonServer) -> None:
    with GrpcStream(grpc(small)) as stream:
        for n in range(MAX_BATCH):
            running = Drawing("runs first", steps=300 + n, seed=n)
            stream.send(f"running {n}", {**running.inputs, "priority": 1, "progress": True})
        for n in range(MAX_BATCH):
            stream.wait_for(f"running {n}", is_stepping)
        stream.send("later", {**Drawing("later", steps=30).inputs, "priority": 4})
        stream.send("sooner", {**Drawing("sooner", steps=30).inputs, "priority": 3})
        later, sooner = stream.answer("later"), stream.answer("sooner")
    assert sooner.infos[0]["queue_ms"] < later.infos[0]["queue_ms"]


def test_the_longest_timeout_there_is_harms_nobody(small: TritonServer) -> None:
    """Clients send it for never."""
    for _ in range(2):
        answer = wire.grpc_stream(grpc(small), SHORT.inputs, timeout=2**63 - 1)
        assert answer.error is None and answer.seeds
