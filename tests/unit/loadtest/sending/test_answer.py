"""A wrong picture is told from a right one."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from loadtest.sending.answer import Answer, WrongAnswer, check
from loadtest.traffic.order import Order
from tools.tiny_flux.pictures import compose
from tools.tiny_flux.prompts import SIZES, Scene, caption
from tools.tiny_flux.recognise import read_sheet

CAT = Scene("cat", None, "blue", "large")
ORDER = Order("a", caption(CAT), 128, 128, 8, seed=7)


def drawn(scene: Scene, size: tuple[int, int] = (128, 128), kind: str = "PNG") -> bytes:
    """A perfect picture of a scene."""
    glyph = read_sheet()[scene.thing]
    side = SIZES[scene.size]
    scale = side / max(glyph.size)
    thing = glyph.resize((round(glyph.width * scale), round(glyph.height * scale)))
    picture = compose(thing, scene.background)
    file = io.BytesIO()
    picture.resize(size).save(file, kind)
    return file.getvalue()


RIGHT = Answer(drawn(CAT), seed=7, info={"steps": 8})


def test_the_right_answer_passes() -> None:
    check(RIGHT, ORDER, prompts=True)


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"seed": 8}, "seed", "is 8; 7 was sent"),
        ({"info": {"steps": 7}}, "steps", "are 7; 8 were asked for"),
        ({"info": {}}, "steps", "are None; 8 were asked for"),
        ({"file": b""}, "image", "does not decode"),
        ({"file": b"no picture"}, "image", "does not decode"),
        ({"file": RIGHT.file[:-300]}, "image", "does not decode"),
        ({"file": drawn(CAT, (64, 128))}, "size", "is 64x128; 128x128 was asked for"),
    ],
)
def test_a_wrong_answer_is_told_by_what_is_wrong(change: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(WrongAnswer, match=message) as raised:
        check(replace(RIGHT, **change), ORDER, prompts=False)
    assert (raised.value.code, raised.value.field) == ("WRONG_ANSWER", field)


@pytest.mark.parametrize("scene", [replace(CAT, thing="owl"), replace(CAT, background="red")])
def test_a_picture_of_another_prompt_is_wrong_where_that_is_looked_at(scene: Scene) -> None:
    stranger = replace(RIGHT, file=drawn(scene))
    check(stranger, ORDER, prompts=False)
    with pytest.raises(WrongAnswer, match=f"shows {scene.thing} on {scene.background}; the prompt was 'a large cat"):
        check(stranger, ORDER, prompts=True)


def test_the_size_of_the_thing_does_not_matter() -> None:
    check(replace(RIGHT, file=drawn(replace(CAT, size="medium"))), ORDER, prompts=True)


def test_a_prompt_that_flux_tiny_does_not_know_cannot_be_checked() -> None:
    with pytest.raises(WrongAnswer, match="cannot be checked: 'a cat' is no caption of flux-tiny"):
        check(RIGHT, replace(ORDER, prompt="a cat"), prompts=True)


def test_other_sizes_are_not_looked_at() -> None:
    large = replace(RIGHT, file=drawn(replace(CAT, thing="owl"), (192, 192)))
    check(large, replace(ORDER, width=192, height=192), prompts=True)
