"""Image to image, negative prompts and LoRAs through fluxclient, on a real Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fluxclient import FluxClient, FluxError, InvalidArgument, NotFound, Progress, Result
from tests.server.faces import EACH, IDS, Made
from tests.server.source_picture import source
from tests.unit.client.fakes.faces import FACES
from tools.triton.server import TritonServer

PLAIN: dict[str, Any] = {"seed": 3, "num_inference_steps": 4}
GUIDED: dict[str, Any] = {"negative_prompt": "a dog", "true_cfg_scale": 4.0}


def pixels(result: Result, index: int = 0) -> Any:
    return np.asarray(result.images[index].convert("RGB"), np.int16)


def distance(one: Result, other: Result) -> int:
    return int(np.abs(pixels(one) - pixels(other)).max())


@pytest.mark.parametrize("prompts", ["a fox", ["a fox", "a bear"]])
@pytest.mark.parametrize("options", [{"image": source(), "strength": 0.5}, GUIDED], ids=["image", "guided"])
def test_protocols_and_clients_give_the_same_pictures(
    triton: TritonServer, options: dict[str, Any], prompts: str | list[str]
) -> None:
    answers = [
        face(url).generate(prompts, **PLAIN, **options)
        for face in FACES
        for url in (triton.urls.grpc, triton.urls.http)
    ]
    first, *others = [answer if isinstance(answer, list) else [answer] for answer in answers]
    for other in others:
        assert [result.files for result in other] == [result.files for result in first]


def test_what_image_to_image_begins_with(triton: TritonServer, tmp_path: Path) -> None:
    path = tmp_path / "in.png"
    path.write_bytes(source())
    with FluxClient(triton.urls.grpc) as client, Image.open(path) as image:
        sources: list[Any] = [source(), path, str(path), image]
        same = [client.generate("a fox", image=each, strength=0.5, **PLAIN) for each in sources]
        other = client.generate("a fox", image=source("JPEG"), strength=0.5, **PLAIN)
        plain = client.generate("a fox", **PLAIN)
    assert len({result.files for result in same}) == 1
    assert 0 < distance(same[0], other) < distance(same[0], plain), "JPEG loses a little"
    assert same[0].image.size == (128, 128), "as the server has it by default"


@pytest.mark.parametrize("made", EACH, ids=IDS)
def test_strength_is_how_much_of_the_steps_is_taken(made: Made, triton: TritonServer) -> None:
    options: dict[str, Any] = {"seed": 3, "num_inference_steps": 10, "image": source()}
    for strength, drawn in ((0.3, 3), (0.6, 6), (1.0, 10)):
        *progress, result = made(triton).events("a fox", strength=strength, **options)
        steps = [(event.step, event.total_steps) for event in progress if type(event) is Progress]
        assert steps == [(step, drawn) for step in range(1, drawn + 1)]
        assert isinstance(result, Result)
        assert result.info.steps == 10
        assert result.info.extra["strength"] == pytest.approx(strength)


def test_a_negative_prompt_counts_with_true_cfg_alone(triton: TritonServer) -> None:
    with FluxClient(triton.urls.grpc) as client:
        plain = client.generate("a fox", **PLAIN)
        off = client.generate("a fox", **PLAIN, **{**GUIDED, "true_cfg_scale": 1.0})
        guided, empty = (client.generate("a fox", **PLAIN, **{**GUIDED, "negative_prompt": t}) for t in ("a dog", ""))
    assert distance(plain, off) <= 1
    assert distance(plain, guided) > 1 < distance(guided, empty)
    assert guided.info.extra["true_cfg_scale"] == 4.0


@pytest.mark.parametrize("made", EACH, ids=IDS)
@pytest.mark.parametrize(
    ("options", "kind", "field"),
    [
        ({"lora": {"nobody": 0.5}}, NotFound, "lora"),
        ({"lora": "a:b:c"}, InvalidArgument, "lora"),
        ({"true_cfg_scale": 2.0}, InvalidArgument, "true_cfg_scale"),
        ({"true_cfg_scale": 31, "negative_prompt": ""}, InvalidArgument, "true_cfg_scale"),
        ({"true_cfg_scale": 2.0, "negative_prompt": "a" * 4097}, InvalidArgument, "negative_prompt"),
        ({"strength": 0.5}, InvalidArgument, "strength"),
        ({"strength": 1.5, "image": source()}, InvalidArgument, "strength"),
        ({"image": source()[:30]}, InvalidArgument, "image"),
        ({"image": source("JPEG")[:-600]}, InvalidArgument, "image"),
    ],
)
def test_errors(made: Made, options: dict[str, Any], kind: type[FluxError], field: str, triton: TritonServer) -> None:
    for prompts in ("a fox", ["a fox", "a bear"]):
        with pytest.raises(kind) as caught:
            made(triton).generate(prompts, num_inference_steps=1, **options)
        assert (type(caught.value), caught.value.field) == (kind, field)
