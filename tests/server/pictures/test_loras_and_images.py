"""LoRAs, negative prompts and image to image over the wire: as diffusers draws them, all in the same batches."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.server import wire
from tests.server.answers import json_pictures
from tests.server.reference import Drawing, Reference
from tests.server.servers import grpc, http, settled
from tests.server.wire import GrpcStream
from tools.triton.server import TritonServer

# PEFT warns of the second adapter that diffusers loads into one model.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")


def picture_file() -> bytes:
    across, down = np.meshgrid(np.linspace(0, 255, 90), np.linspace(0, 255, 70))
    file = io.BytesIO()
    Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


KINDS = [
    Drawing("a fox", 6),
    Drawing("a fox", 6, loras=(("one", 1.0),)),
    Drawing("a fox", 7, loras=(("two", 0.5),)),
    Drawing("a fox", 8, loras=(("one", -0.5), ("two", 1.0))),
    Drawing("a fox", 6, negative_prompt="snow", true_cfg_scale=3.0),
    Drawing("a fox", 9, image=picture_file(), strength=0.7),
    Drawing(
        "a fox", 9, image=picture_file(), strength=0.6, loras=(("one", 1.0),), negative_prompt="", true_cfg_scale=2.0
    ),
]


def test_all_kinds_at_once(triton: TritonServer, reference: Reference) -> None:
    expected = [reference.draw(drawing, 64) for drawing in KINDS]
    assert all(np.abs(one.astype(int) - expected[0]).max() > 20 for one in expected[1:]), "each does something"
    for _ in ("LoRAs are read", "LoRAs are there"):
        with GrpcStream(grpc(triton)) as stream:
            for n, drawing in enumerate(KINDS):
                stream.send(str(n), {**drawing.inputs, "output_format": "raw"})
            answers = [stream.answer(str(n)) for n in range(len(KINDS))]
        for drawing, answer in zip(KINDS, answers, strict=True):
            reference.holds_answer([drawing], answer)
    assert max(answer.infos[0]["mean_batch"] for answer in answers) > 1, "these were to share their steps"
    assert settled(triton).total("flux_loras_loaded") == 2
    infos = [answer.infos[0] for answer in answers]
    assert [info["lora"] for info in infos[:4]] == ["", "one:1", "two:0.5", "one:-0.5,two:1"]


@pytest.mark.parametrize("model", ["flux", "flux_unary"])
def test_json(triton: TritonServer, reference: Reference, model: str) -> None:
    drawing = KINDS[-1]
    assert drawing.image is not None
    body = {**drawing.inputs, "image": base64.b64encode(drawing.image).decode()}
    status, answer = wire.generate(http(triton), body, model=model)
    assert status == 200, answer
    (picture,) = json_pictures(answer)
    reference.holds(drawing, picture, 64)


def test_rows_with_and_without(triton: TritonServer, reference: Reference) -> None:
    """A request of several prompts sends every input for all of them: empty where a row has none."""
    some = [KINDS[0], KINDS[3], KINDS[5]]
    inputs = {name: [drawing.inputs[name] for drawing in some] for name in KINDS[0].inputs}
    inputs["lora"] = [drawing.inputs.get("lora", "") for drawing in some]
    inputs["image"] = [drawing.image or b"" for drawing in some]
    inputs["strength"] = [drawing.strength for drawing in some]
    answer = wire.grpc_infer(grpc(triton), inputs)
    reference.holds_answer(some, answer)


BAD = [
    ({"lora": "three"}, "FLUX_NOT_FOUND: lora: 'three' is not here; there are broken, foreign, one, two"),
    ({"lora": "../one"}, "FLUX_NOT_FOUND: lora: '../one' is not here"),
    ({"lora": "x" * 300}, f"FLUX_NOT_FOUND: lora: '{'x' * 80}' cannot be read: File name too long"),
    ({"lora": "one:much"}, "FLUX_INVALID_ARGUMENT: lora: has 'one:much'; must be name or name:scale"),
    ({"lora": "broken"}, "FLUX_INVALID_ARGUMENT: lora: 'broken' cannot be used"),
    ({"lora": "foreign"}, "FLUX_INVALID_ARGUMENT: lora: 'foreign' is made for another model"),
    ({"true_cfg_scale": 4.0}, "FLUX_INVALID_ARGUMENT: true_cfg_scale: is 4, which needs a negative_prompt"),
    ({"image": "bm8gcGljdHVyZQ=="}, "FLUX_INVALID_ARGUMENT: image: is not a PNG, JPEG or WebP file"),
    ({"strength": 0.5}, "FLUX_INVALID_ARGUMENT: strength: is of no use without an image"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD, ids=[str(inputs) for inputs, _ in BAD])
def test_what_is_wrong_is_said_and_harms_no_neighbour(
    triton: TritonServer, reference: Reference, inputs: dict[str, object], message: str
) -> None:
    neighbour = KINDS[1]
    with GrpcStream(grpc(triton)) as stream:
        stream.send("good", {**neighbour.inputs, "output_format": "raw"})
        stream.send("bad", {"prompt": "x", **inputs})
        error = stream.answer("bad").error
        assert error is not None
        assert message in error
        reference.holds_answer([neighbour], stream.answer("good"))
    status, answer = wire.generate(http(triton), {"prompt": "x", **inputs})
    assert status != 200
    assert message in answer["error"]
    unary = wire.grpc_infer(grpc(triton), {"prompt": "x", **inputs})
    assert unary.status == f"StatusCode.{'NOT_FOUND' if 'NOT_FOUND' in message else 'INVALID_ARGUMENT'}"
    assert message in str(unary.error)
    assert all(len(str(text)) <= 500 + len("[flux] ") for text in (error, answer["error"], unary.error))
