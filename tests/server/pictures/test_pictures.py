"""Every picture is the one that diffusers' FluxPipeline draws, whoever shares the batch and however it is asked."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.server import wire
from tests.server.answers import Answer, decode, json_pictures
from tests.server.reference import Drawing, Reference, rows
from tests.server.servers import Measured, grpc, http, until
from tests.server.wire import GrpcStream
from tools.triton.server import TritonServer

MIXED = [
    Drawing(f"picture {n} of many", steps, guidance, seed)
    for n, (steps, guidance, seed) in enumerate(
        [
            (1, 0.0, 0),
            (2, 1.0, 1),
            (3, 3.5, 2**31),
            (4, 30.0, 2**32 + 7),
            (5, 2.25, 2**53 + 1),
            (7, 7.5, 2**63 - 1),
            (9, 3.5, 42),
            (12, 5.0, 42),
        ]
    )
]


def send_all(stream: GrpcStream, drawings: list[Drawing], prefix: str = "", **more: Any) -> list[str]:
    for n, drawing in enumerate(drawings):
        stream.send(f"{prefix}{n}", {**drawing.inputs, **more})
    return [f"{prefix}{n}" for n in range(len(drawings))]


def is_stepping(answer: Answer) -> bool:
    return any(event.kind == "progress" for event in answer.events)


def test_mixed_steps_guidance_and_seeds_at_once_over_streams(triton: TritonServer, reference: Reference) -> None:
    with GrpcStream(grpc(triton)) as first, GrpcStream(grpc(triton)) as second:
        ids = send_all(first, MIXED, output_format="raw")
        twins = send_all(second, MIXED[::-1])
        answers = [first.answer(name) for name in ids]
        for drawing, answer in zip(MIXED, answers, strict=True):
            reference.holds_answer([drawing], answer)
        for drawing, name in zip(MIXED[::-1], twins, strict=True):
            reference.holds_answer([drawing], second.answer(name))
    assert max(answer.infos[0]["mean_batch"] for answer in answers) > 1, "these were to share their steps"


def test_several_images_of_a_prompt_use_the_seeds_that_follow(triton: TritonServer, reference: Reference) -> None:
    drawings = [Drawing("a flock", seed=seed) for seed in (100, 101, 102)]
    answer = wire.grpc_stream(grpc(triton), {**drawings[0].inputs, "num_images_per_prompt": 3})
    assert answer.seeds == [[100, 101, 102]]
    (pictures,) = answer.pictures()
    for drawing, picture in zip(drawings, pictures, strict=True):
        reference.holds(drawing, picture, answer.infos[0]["max_sequence_length"])


def test_several_images_of_several_prompts(triton: TritonServer, reference: Reference) -> None:
    drawings = [Drawing("a cow", seed=5, steps=3), Drawing("a hen", seed=50, steps=6)]
    inputs = {**rows(drawings), "num_images_per_prompt": [2, 2], "output_format": ["raw", "raw"]}
    answer = wire.grpc_infer(grpc(triton), inputs)
    assert answer.seeds == [[5, 6], [50, 51]]
    for drawing, pictures in zip(drawings, answer.pictures(), strict=True):
        for image, picture in enumerate(pictures):
            wanted = Drawing(drawing.prompt, drawing.steps, seed=drawing.seed + image)
            reference.holds(wanted, picture, answer.infos[0]["max_sequence_length"])


BATCH = [
    Drawing("a wide one", 5, 1.0, 1, width=192, height=64),
    Drawing("a high one", 2, 4.0, 2, width=64, height=192),
    Drawing("a high one too", 3, 4.0, 3, width=64, height=192),
    Drawing("a plain one", 7, 2.0, 4),
]


def test_rows_of_a_request_differ_in_all_but_the_format(triton: TritonServer, reference: Reference) -> None:
    reference.holds_answer(BATCH, wire.grpc_stream(grpc(triton), rows(BATCH)))
    reference.holds_answer(BATCH, wire.grpc_infer(grpc(triton), rows(BATCH)))


def test_sizes_take_turns(triton: TritonServer, reference: Reference) -> None:
    sizes = [(64, 64), (128, 128), (208, 96)]
    drawings = [
        Drawing(f"{width} by {height}", 3 + n, 3.0, n, width, height) for width, height in sizes for n in range(3)
    ]
    with GrpcStream(grpc(triton)) as stream:
        for drawing, name in zip(drawings, send_all(stream, drawings), strict=True):
            reference.holds_answer([drawing], stream.answer(name))


def test_late_ones_join_a_batch_on_its_way(triton: TritonServer, reference: Reference) -> None:
    early = Drawing("was there before", steps=400, seed=1)
    late = [Drawing(f"came late {n}", steps=2 + n, seed=n) for n in range(3)]
    with GrpcStream(grpc(triton)) as stream:
        stream.send("early", {**early.inputs, "progress": True})
        stream.wait_for("early", is_stepping)
        ids = send_all(stream, late)
        answers = [stream.answer(name) for name in ids]
        early_answer = stream.answer("early")
    for drawing, answer in zip(late, answers, strict=True):
        reference.holds_answer([drawing], answer)
        assert answer.final.arrived_s < early_answer.final.arrived_s
        assert answer.infos[0]["mean_batch"] > 1
    reference.holds_answer([early], early_answer)


def test_others_are_untouched_when_a_neighbour_leaves(triton: TritonServer, reference: Reference) -> None:
    staying = [Drawing(f"stays {n}", steps=60 + 5 * n, seed=n) for n in range(3)]
    leaving = [Drawing(f"leaves {n}", steps=900, seed=n) for n in range(2)]
    before = Measured(triton).total("flux_dropped_images_total", {"cause": "cancelled"})
    with GrpcStream(grpc(triton)) as stream:
        with GrpcStream(grpc(triton)) as impatient:
            going = send_all(impatient, leaving[:1], "a", progress=True)
            ids = send_all(stream, staying, progress=True)
            going += send_all(impatient, leaving[1:], "b", progress=True)
            for name in ids:
                stream.wait_for(name, is_stepping)
            for name in going:
                impatient.wait_for(name, is_stepping)
        for drawing, name in zip(staying, ids, strict=True):
            reference.holds_answer([drawing], stream.answer(name))
    until(
        lambda: Measured(triton).total("flux_dropped_images_total", {"cause": "cancelled"}) == before + 2,
        "two pictures given up",
    )


ONE = Drawing("asked for in every way", steps=5, guidance=2.5, seed=77)


def grpc_stream(triton: TritonServer) -> Answer:
    return wire.grpc_stream(grpc(triton), ONE.inputs)


def grpc_infer(triton: TritonServer) -> Answer:
    return wire.grpc_infer(grpc(triton), ONE.inputs)


def http_infer(triton: TritonServer) -> Answer:
    return wire.http_infer(http(triton), ONE.inputs)


@pytest.mark.parametrize("ask", [grpc_stream, grpc_infer, http_infer])
def test_the_same_over_every_tensor_protocol(
    ask: Callable[[TritonServer], Answer], triton: TritonServer, reference: Reference
) -> None:
    reference.holds_answer([ONE], ask(triton))


@pytest.mark.parametrize("model", ["flux", "flux_unary"])
def test_the_same_over_generate(model: str, triton: TritonServer, reference: Reference) -> None:
    status, answer = wire.generate(http(triton), {**ONE.inputs, "id": "given"}, model=model)
    assert status == 200, answer
    assert (answer["id"], answer["seed"]) == ("given", ONE.seed)
    (picture,) = json_pictures(answer)
    reference.holds(ONE, picture, json.loads(answer["info"])["max_sequence_length"])


def test_the_same_over_generate_with_several_prompts(triton: TritonServer, reference: Reference) -> None:
    status, answer = wire.generate(http(triton), rows(BATCH))
    assert status == 200, answer
    for drawing, picture, info in zip(BATCH, json_pictures(answer), answer["info"], strict=True):
        reference.holds(drawing, picture, json.loads(info)["max_sequence_length"])


def test_the_same_over_generate_stream(triton: TritonServer, reference: Reference) -> None:
    (event,) = wire.generate_stream(http(triton), ONE.inputs)
    assert event["event"] == "final"
    (picture,) = json_pictures(event)
    reference.holds(ONE, picture, json.loads(event["info"])["max_sequence_length"])


def test_the_same_over_infer_in_json(triton: TritonServer, reference: Reference) -> None:
    inputs = [wire.json_tensor(name, value) for name, value in ONE.inputs.items()]
    status, answer = wire.post(http(triton), "/v2/models/flux_unary/infer", {"id": "given", "inputs": inputs})
    assert status == 200, answer
    assert answer["id"] == "given"
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["image"]["shape"] == outputs["seed"]["shape"] == [1, 1]
    (picture,) = json_pictures({"image": outputs["image"]["data"]})
    reference.holds(ONE, picture, json.loads(outputs["info"]["data"][0])["max_sequence_length"])


def test_pixels_in_json_are_the_pixels(triton: TritonServer, reference: Reference) -> None:
    inputs = [wire.json_tensor(name, value) for name, value in {**ONE.inputs, "output_format": "raw"}.items()]
    status, answer = wire.post(http(triton), "/v2/models/flux_unary/infer", {"inputs": inputs})
    assert status == 200, answer
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert "image" not in outputs
    assert outputs["pixels"]["shape"] == [1, 1, ONE.height, ONE.width, 3]
    pixels = np.array(outputs["pixels"]["data"], np.uint8).reshape(ONE.height, ONE.width, 3)
    reference.holds(ONE, pixels, json.loads(outputs["info"]["data"][0])["max_sequence_length"])


ENCODED = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


@pytest.mark.parametrize("output_format", ENCODED)
@pytest.mark.parametrize("ask", [wire.grpc_stream, wire.grpc_infer])
def test_formats_as_text_and_as_bytes(
    output_format: str, ask: Callable[..., Answer], triton: TritonServer, reference: Reference
) -> None:
    inputs = {**ONE.inputs, "output_format": output_format}
    as_default = ask(grpc(triton), inputs)
    as_text = ask(grpc(triton), {**inputs, "base64": True})
    as_bytes = ask(grpc(triton), {**inputs, "base64": False})
    ((file,),) = as_bytes.files(base64_text=False)
    assert as_default.files() == as_text.files() == [[file]]
    assert as_bytes.final.pixels is None
    with Image.open(io.BytesIO(file)) as image:
        assert (image.format, image.mode, image.size) == (ENCODED[output_format], "RGB", (ONE.width, ONE.height))
    expected = reference.draw(ONE, as_bytes.infos[0]["max_sequence_length"])
    off = np.abs(decode(file).astype(int) - expected.astype(int))
    assert off.max() <= 1 if output_format == "png" else off.mean() < LOSSY_MEAN, f"off by {off.mean():.1f} on average"


LOSSY_MEAN = 20.0
"""Levels of 255. A picture of random weights is mostly noise, the hardest there is; another one is off by far more."""


@pytest.mark.parametrize("ask", [wire.grpc_stream, wire.grpc_infer])
def test_raw_has_pixels_and_no_file(ask: Callable[..., Answer], triton: TritonServer, reference: Reference) -> None:
    drawings = [Drawing("raw one", seed=1), Drawing("raw two", steps=6, seed=2)]
    answer = ask(grpc(triton), {**rows(drawings), "output_format": ["raw", "raw"]})
    reference.holds_answer(drawings, answer)
    assert answer.final.image is None
    assert answer.final.pixels is not None
    assert answer.final.pixels.shape == (2, 1, 128, 128, 3)


def test_a_seed_that_was_drawn_gives_the_picture_again(triton: TritonServer, reference: Reference) -> None:
    first = wire.grpc_stream(grpc(triton), {"prompt": "whatever comes"})
    ((seed,),) = first.seeds
    info = first.infos[0]
    ((picture,),) = first.pictures()
    again = Drawing("whatever comes", info["steps"], info["guidance_scale"], seed, info["width"], info["height"])
    reference.holds(again, picture, info["max_sequence_length"])
    other = wire.grpc_stream(grpc(triton), {"prompt": "whatever comes"})
    assert other.seeds != first.seeds


def test_defaults_are_those_of_the_configuration(triton: TritonServer) -> None:
    info = wire.grpc_stream(grpc(triton), {"prompt": "nothing else"}).infos[0]
    assert (info["steps"], info["width"], info["height"], info["max_sequence_length"]) == (4, 128, 128, 64)
    assert info["guidance_scale"] == 3.5


def test_the_first_64_tokens_of_a_long_prompt_count(triton: TritonServer, reference: Reference) -> None:
    drawing = Drawing("word " * 819 + "x", seed=9)  # 4,096 characters: as long as it may be
    reference.holds_answer([drawing], wire.grpc_stream(grpc(triton), drawing.inputs))


def test_prompts_in_any_script(triton: TritonServer, reference: Reference) -> None:
    drawings = [
        Drawing(prompt, seed=3) for prompt in ("ein Käse für Zoë", "一只猫", "🍎 on \t a\nplate", 'quote " \\ {}')
    ]
    with GrpcStream(grpc(triton)) as stream:
        for drawing, name in zip(drawings, send_all(stream, drawings), strict=True):
            reference.holds_answer([drawing], stream.answer(name))
    for drawing in drawings:
        status, answer = wire.generate(http(triton), drawing.inputs)
        assert status == 200, answer
        reference.holds(drawing, json_pictures(answer)[0], 64)
