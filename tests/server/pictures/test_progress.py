"""Events on the way to a picture: one after each step, previews in between, the pictures last, if asked for."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.server import wire
from tests.server.answers import Answer, decode, json_pictures
from tests.server.reference import Drawing, Reference, rows
from tests.server.servers import grpc, http
from tools.triton.server import TritonServer

ONE = Drawing("watched", steps=7, seed=5)


def edges(file: bytes) -> tuple[str | None, tuple[int, int]]:
    with Image.open(io.BytesIO(file)) as image:
        image.load()
        return image.format, image.size


def test_one_event_after_each_step_then_the_picture(triton: TritonServer, reference: Reference) -> None:
    answer = wire.grpc_stream(grpc(triton), {**ONE.inputs, "progress": True})
    assert [event.kind for event in answer.events] == ["progress"] * 7 + ["final"]
    assert [event.steps for event in answer.events] == [[1], [2], [3], [4], [5], [6], [7], [7]]
    assert all(event.totals == [7] for event in answer.events)
    assert all(event.image is None and event.info is None for event in answer.events[:-1])
    reference.holds_answer([ONE], answer)


def test_nothing_but_the_picture_unless_asked_for(triton: TritonServer) -> None:
    for inputs in ({"progress": False}, {"preview_interval": 1}, {"progress": False, "preview_interval": 1}):
        answer = wire.grpc_stream(grpc(triton), {**ONE.inputs, **inputs})
        assert [event.kind for event in answer.events] == ["final"]


@pytest.mark.parametrize("base64_text", [True, False])
def test_a_small_picture_every_third_step(base64_text: bool, triton: TritonServer, reference: Reference) -> None:
    inputs = {**ONE.inputs, "progress": True, "preview_interval": 3, "base64": base64_text}
    answer = wire.grpc_stream(grpc(triton), inputs)
    previews = [event for event in answer.events if event.kind == "preview"]
    assert [event.steps for event in previews] == [[3], [6]]
    for event in previews:
        ((file,),) = Answer("", [event]).files(base64_text)
        assert edges(file) == ("JPEG", (64, 64))
    reference.holds_answer([ONE], answer, base64_text)


def test_previews_come_with_raw_pixels_as_well(triton: TritonServer, reference: Reference) -> None:
    inputs = {**ONE.inputs, "progress": True, "preview_interval": 4, "output_format": "raw"}
    answer = wire.grpc_stream(grpc(triton), inputs)
    assert [event.kind for event in answer.events].count("preview") == 1
    reference.holds_answer([ONE], answer)


def test_the_last_preview_is_the_picture_made_small(triton: TritonServer) -> None:
    """After the last step nothing is left to predict, so the preview shows what the picture shows."""
    inputs = {**ONE.inputs, "progress": True, "preview_interval": 7}
    answer = wire.grpc_stream(grpc(triton), inputs)
    (preview,) = [event for event in answer.events if event.kind == "preview"]
    ((file,),) = Answer("", [preview]).files()
    ((picture,),) = answer.pictures()
    small = decode(file).mean(axis=(0, 1))
    assert abs(small - picture.mean(axis=(0, 1))).max() < 25, "its colours are those of the picture"


def test_each_row_has_its_own_steps(triton: TritonServer, reference: Reference) -> None:
    drawings = [Drawing("short", 2, seed=1), Drawing("long", 5, seed=2), Drawing("small", 3, seed=3, width=64)]
    inputs = {**rows(drawings), "progress": [True] * 3, "preview_interval": [2] * 3, "num_images_per_prompt": [2] * 3}
    with wire.GrpcStream(grpc(triton)) as stream:
        stream.send("rows", inputs)
        answer = stream.answer("rows")
    steps = np.array([event.steps for event in answer.events if event.kind == "progress"])
    assert steps[-1].tolist() == [2, 5, 3]
    assert (np.diff(steps, axis=0) >= 0).all()
    for event in answer.events:
        assert event.totals == [2, 5, 3]
        if event.kind == "preview":
            assert event.image is not None and event.image.shape == (3, 2), "an image of a row without one is empty"
            assert any(event.image.flat)
    assert answer.seeds == [[1, 2], [2, 3], [3, 4]]
    for drawing, pictures, info in zip(drawings, answer.pictures(), answer.infos, strict=True):
        reference.holds(drawing, pictures[0], info["max_sequence_length"])


def test_events_over_generate_stream(triton: TritonServer, reference: Reference) -> None:
    events = list(wire.generate_stream(http(triton), {**ONE.inputs, "progress": True, "preview_interval": 7}))
    assert [event["event"] for event in events] == ["progress"] * 7 + ["preview", "final"]
    assert [event["step"] for event in events] == [1, 2, 3, 4, 5, 6, 7, 7, 7]
    assert edges(base64.b64decode(events[-2]["image"])) == ("JPEG", (64, 64))
    reference.holds(ONE, json_pictures(events[-1])[0], json.loads(events[-1]["info"])["max_sequence_length"])


def test_generate_says_what_to_use_for_progress(triton: TritonServer) -> None:
    _, answer = wire.generate(http(triton), {**ONE.inputs, "progress": True})
    assert "generate expects model to produce exactly 1 response, use generate stream" in answer["error"]
