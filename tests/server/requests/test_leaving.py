"""A caller that leaves frees its places within a step.

Triton 24.10 notices over HTTP only when it has something to write, so `generate` and `infer` over HTTP draw to the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.grpc.aio

from tests.server import wire
from tests.server.answers import Answer
from tests.server.reference import Drawing, Reference
from tests.server.servers import Measured, grpc, http, until, until_idle
from tests.server.wire import GrpcStream
from tools.triton.server import TritonServer

STEPS = 1000
ENDLESS = {"prompt": "nobody waits for it", "num_inference_steps": STEPS, "width": 256, "height": 256}
GIVEN_UP = ("flux_dropped_images_total", {"cause": "cancelled"})


def is_stepping(answer: Answer) -> bool:
    return any(event.kind == "progress" for event in answer.events)


def until_drawing(triton: TritonServer, jobs: int = 1) -> None:
    until(lambda: Measured(triton).total("flux_jobs_running") >= jobs, f"{jobs} images on their way")


def leave_a_stream(triton: TritonServer) -> None:
    with GrpcStream(grpc(triton)) as stream:
        stream.send("gone", {**ENDLESS, "progress": True})
        stream.wait_for("gone", is_stepping)


def leave_a_silent_stream(triton: TritonServer) -> None:
    with GrpcStream(grpc(triton)) as stream:
        stream.send("gone", ENDLESS)
        until_drawing(triton)


def cancel_a_task(triton: TritonServer) -> None:
    async def ask() -> None:
        client = tritonclient.grpc.aio.InferenceServerClient(grpc(triton))

        async def requests() -> Any:
            inputs = wire.infer_inputs(tritonclient.grpc, {**ENDLESS, "progress": True})
            yield {"model_name": "flux", "inputs": inputs}

        try:
            responses = client.stream_infer(requests())
            async for _, error in responses:
                assert error is None
                responses.cancel()
                break
        finally:
            await client.close()

    asyncio.run(ask())


def cancel_infer(triton: TritonServer) -> None:
    client = tritonclient.grpc.InferenceServerClient(grpc(triton))
    try:
        inputs = wire.infer_inputs(tritonclient.grpc, ENDLESS)
        call = client.async_infer("flux_unary", inputs, callback=lambda result, error: None)
        until_drawing(triton)
        call.cancel()
    finally:
        client.close()


def give_up_waiting_for_infer(triton: TritonServer) -> None:
    """The client's own time limit: gRPC cancels the call when it has passed."""
    answer = wire.grpc_infer(grpc(triton), ENDLESS, client_timeout=2.0)
    assert answer.status == "StatusCode.DEADLINE_EXCEEDED"


def close_generate_stream(triton: TritonServer) -> None:
    events = wire.generate_stream(http(triton), {**ENDLESS, "progress": True})
    assert next(events)["event"] == "progress"
    events.close()  # type: ignore[attr-defined]  # a generator


LEAVE = [
    leave_a_stream,
    leave_a_silent_stream,
    cancel_a_task,
    cancel_infer,
    give_up_waiting_for_infer,
    close_generate_stream,
]


@pytest.mark.parametrize("leave", LEAVE)
def test_the_place_is_free_long_before_the_steps_are_done(
    leave: Callable[[TritonServer], None], triton: TritonServer
) -> None:
    before = until_idle(triton)
    leave(triton)
    until(lambda: Measured(triton).total(*GIVEN_UP) == before.total(*GIVEN_UP) + 1, "a picture given up")
    after = until_idle(triton)
    assert after.total("flux_steps_total") - before.total("flux_steps_total") < STEPS
    assert after.total("flux_images_total") == before.total("flux_images_total")
    cancelled = {"outcome": "cancelled"}
    told = after.total("flux_requests_total", cancelled) - before.total("flux_requests_total", cancelled)
    assert told == 1


def test_a_whole_crowd_leaves_from_the_batch_and_from_the_line(triton: TritonServer, reference: Reference) -> None:
    """max_batch is 16, so eight of these wait in the engine."""
    before = until_idle(triton)
    with GrpcStream(grpc(triton)) as stream:
        for n in range(12):
            stream.send(f"{n}", {**ENDLESS, "num_images_per_prompt": 2, "output_format": "raw"})
        until_drawing(triton, 16)
        until(lambda: Measured(triton).total("flux_jobs_waiting") == 8, "eight images in line")
    until(lambda: Measured(triton).total(*GIVEN_UP) == before.total(*GIVEN_UP) + 24, "24 pictures given up")
    until_idle(triton)
    drawing = Drawing("comes after them", seed=8)
    reference.holds_answer([drawing], wire.grpc_stream(grpc(triton), drawing.inputs))


def test_who_leaves_the_line_over_http_is_noticed_at_the_next_sign_of_life(triton: TritonServer) -> None:
    """Nothing of it has been drawn, so only the repeated progress of a waiting request finds that nobody reads."""
    before = until_idle(triton)
    with GrpcStream(grpc(triton)) as stream:
        for n in range(2):
            stream.send(f"{n}", {**ENDLESS, "num_images_per_prompt": 8, "output_format": "raw", "priority": 1})
        until_drawing(triton, 16)
        events = wire.generate_stream(http(triton), {**ENDLESS, "progress": True})
        assert (told := next(events))["step"] == 0, told
        events.close()  # type: ignore[attr-defined]  # a generator
        until(lambda: Measured(triton).total(*GIVEN_UP) == before.total(*GIVEN_UP) + 1, "a picture given up")
        assert Measured(triton).total("flux_jobs_running") == 16


def test_who_stays_on_another_stream_is_served(triton: TritonServer, reference: Reference) -> None:
    drawing = Drawing("stays", steps=80, seed=3)
    with GrpcStream(grpc(triton)) as stream:
        with GrpcStream(grpc(triton)) as other:
            other.send("gone", {**Drawing("leaves", steps=STEPS).inputs, "progress": True})
            other.wait_for("gone", is_stepping)
            stream.send("stays", {**drawing.inputs, "progress": True})
            stream.wait_for("stays", is_stepping)
        reference.holds_answer([drawing], stream.answer("stays"))


def test_coming_and_going_all_the_time(triton: TritonServer, reference: Reference) -> None:
    """Answers race with cancellations: the server lives, nothing is left over, and who stays gets its picture."""
    staying = [Drawing(f"stays {n}", steps=3 + n % 4, seed=n) for n in range(40)]
    with GrpcStream(grpc(triton)) as stream:
        for n, drawing in enumerate(staying):
            stream.send(f"{n}", drawing.inputs)
            with GrpcStream(grpc(triton)) as hasty:
                for leaving in range(3):
                    hasty.send(f"{leaving}", Drawing("leaves", steps=1 + leaving, width=64, height=64).inputs)
                if n % 2:
                    hasty.answer("0")
        for n, drawing in enumerate(staying):
            reference.holds_answer([drawing], stream.answer(f"{n}"))
    until_idle(triton)
