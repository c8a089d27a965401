"""POST /v1/images/generations with stream."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx2
import pytest
from PIL import Image

from fluxclient.gateway.openai.image_stream import PING_S, preview_interval
from tests.unit.client.fakes.answers import picture, step, texts
from tests.unit.client.fakes.command import draw, inputs_of, stay
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.gateway.model_behaviours import draw_with_previews, fail_with
from tests.unit.client.gateway.running import error_of, events

PATH = "/v1/images/generations"


def stream(gateway: httpx2.Client, **body: Any) -> list[dict[str, Any]]:
    with gateway.stream("POST", PATH, json={"prompt": "a", "stream": True, **body}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        told = list(events(response))
    assert all(event["event"] == event["type"] for event in told)
    return told


def kinds(told: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("image_generation.") for event in told]


def picture_of(event: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(event["b64_json"])))


def test_the_events_of_openai(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = draw_with_previews(8)
    told = stream(gateway, partial_images=2, output_format="webp", seed=3, num_inference_steps=8)
    assert kinds(told) == ["partial_image", "partial_image", "completed"]
    assert [event["partial_image_index"] for event in told[:2]] == [0, 1]
    common = {"created_at", "size", "quality", "background", "output_format", "b64_json"}
    assert all(common <= event.keys() for event in told)
    assert {picture_of(event).format for event in told} == {"WEBP"}
    completed = told[-1]
    assert (completed["seed"], completed["size"], completed["info"]["steps"]) == (3, "32x16", 8)
    assert completed["usage"]["total_tokens"] == 0


def test_progress_is_told_to_those_who_ask(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = draw_with_previews(3)
    told = stream(gateway, progress=True, partial_images=1)
    assert kinds(told) == ["progress", "progress", "partial_image", "progress", "completed"]
    steps = [(event["step"], event["total_steps"]) for event in told if "step" in event]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert kinds(stream(gateway)) == ["completed"]


def test_each_step_is_told_once(gateway: httpx2.Client, server: WireServer) -> None:
    """The engine sends its event, its preview, and the same step again as a sign of life."""

    def as_the_engine_does(request: Any, context: Any) -> Any:
        for number in (0, 0, 1, 1, 2):
            yield step(number, 2)
            if number:
                yield step(number, 2, "preview", image=texts([[picture("blue", "JPEG", (8, 8))]]))
        yield from draw(request, context)

    server.behaviour = as_the_engine_does
    told = stream(gateway, progress=True, partial_images=1)
    assert kinds(told) == ["progress", "progress", "partial_image", "progress", "completed"]
    assert [event["step"] for event in told if "step" in event] == [0, 1, 2]


def test_a_stream_is_never_silent_for_long(
    gateway: httpx2.Client, server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies end what is. Readers of events do not see comments."""
    assert PING_S <= 10, "nginx ends a silent stream after 60 s, HAProxy after 50 s"
    monkeypatch.setattr("fluxclient.gateway.openai.routes.BEGIN_WITHIN_S", 0.05)
    monkeypatch.setattr("fluxclient.gateway.openai.image_stream.PING_S", 0.05)
    server.behaviour = stay
    with gateway.stream("POST", PATH, json={"prompt": "a", "stream": True}, timeout=10) as response:
        lines = iter(response.iter_lines())
        told = [next(lines) for _ in range(4)]
    assert told == [": waiting", "", ": waiting", ""]


def test_several_images_have_previews_of_their_own(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = draw_with_previews(4)
    told = stream(gateway, n=2, partial_images=1, seed=8)
    partial = [(event["image_index"], event["partial_image_index"]) for event in told[:2]]
    assert partial == [(0, 0), (1, 0)]
    assert [(event["image_index"], event["seed"]) for event in told[2:]] == [(0, 8), (1, 9)]


def test_the_spread_of_a_model_is_learnt(gateway: httpx2.Client, server: WireServer) -> None:
    """Who does not say how many steps gets previews as evenly spread, from the first time on."""
    server.behaviour = draw_with_previews(12)
    for _ in range(2):
        told = stream(gateway, partial_images=3, progress=True)
        after = [told[n - 1]["step"] for n, event in enumerate(told) if "partial_image_index" in event]
        assert after == [3, 6, 9]
    assert [inputs_of(request)["preview_interval"] for request in server.requests] == [1, 3]


@pytest.mark.parametrize("previews", [1, 2, 3])
def test_previews_are_spread_over_the_steps(previews: int) -> None:
    for total in range(2, 101):
        steps = [preview_interval(total, previews) * n for n in range(1, previews + 1)]
        assert sum(step < total for step in steps) == min(previews, total - 1)
        if total > 12:
            even = [total * n / (previews + 1) for n in range(1, previews + 1)]
            assert all(abs(step - wanted) < total / 6 for step, wanted in zip(steps, even, strict=True))
    assert preview_interval(1, previews) == 1


def test_no_preview_of_the_last_step(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = draw_with_previews(2)
    assert kinds(stream(gateway, partial_images=3)) == ["partial_image", "completed"]


def test_what_is_wrong_at_once_has_a_status(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = fail_with("FLUX_INVALID_ARGUMENT: width: is 9; must be a multiple of 16 [request r]")
    refusal = gateway.post(PATH, json={"prompt": "a", "stream": True, "size": "9x16"})
    assert (refusal.status_code, error_of(refusal)["param"]) == (400, "size")


def test_what_goes_wrong_later_is_an_event(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = fail_with("FLUX_OUT_OF_MEMORY: device: has no room [request r]", after_steps=2)
    *_, last = stream(gateway, progress=True)
    assert last["event"] == "error"
    assert last["error"] == {
        "message": "device: has no room [request r]",
        "type": "server_error",
        "param": None,
        "code": "out_of_memory",
    }


def test_an_answer_begins_while_the_picture_waits(gateway: httpx2.Client, server: WireServer) -> None:
    server.behaviour = stay
    with gateway.stream("POST", PATH, json={"prompt": "a", "stream": True}, timeout=10) as response:
        assert response.status_code == 200
        assert not server.cancelled.is_set()
    assert server.cancelled.wait(10)


def test_who_leaves_in_the_middle_cancels(gateway: httpx2.Client, server: WireServer) -> None:
    def two_steps_and_no_more(request: Any, context: Any) -> Any:
        yield step(1, 50)
        yield step(2, 50)
        yield from stay(request, context)

    server.behaviour = two_steps_and_no_more
    with gateway.stream("POST", PATH, json={"prompt": "a", "stream": True, "progress": True}) as response:
        assert next(events(response))["step"] == 1
    assert server.cancelled.wait(10)
