"""What the LoRAs are to draw, seen on flat shapes, which need no font."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tools.tiny_flux.pictures import FONT, PICTURE_SIZE, draw
from tools.tiny_flux.prompts import COLOURS, Scene
from tools.tiny_flux.styles import STYLES, greyscale, outline

CIRCLE = Scene("circle", "red", "blue", "large")


@pytest.mark.parametrize("style", STYLES)
def test_a_styled_picture_is_grey_and_has_the_size_of_the_plain_one(style: str) -> None:
    picture = STYLES[style](CIRCLE, FONT)
    assert (picture.mode, picture.size) == ("RGB", (PICTURE_SIZE, PICTURE_SIZE))
    assert np.ptp(np.asarray(picture), axis=2).max() == 0


def test_greyscale_keeps_the_luma() -> None:
    def luma(picture: Image.Image) -> NDArray[np.int_]:
        return np.asarray(picture.convert("L"), dtype=int)

    assert np.abs(luma(greyscale(CIRCLE)) - luma(draw(CIRCLE))).max() <= 1


def test_an_outline_is_dark_at_the_edge_and_white_on_both_sides() -> None:
    levels = np.asarray(outline(CIRCLE))[..., 0]
    middle = PICTURE_SIZE // 2
    edge = middle + 48  # the radius of a large circle
    assert levels[middle, edge - 2 : edge + 2].max() < 60
    assert levels[middle, middle] == levels[middle, edge + 10] == COLOURS["white"][0]


@pytest.mark.parametrize("background", COLOURS)
def test_an_outline_does_not_depend_on_the_background(background: str) -> None:
    assert outline(replace(CIRCLE, background=background)) == outline(CIRCLE)


@pytest.mark.parametrize("colour", ["white", "black"])
def test_things_that_are_white_or_black_have_an_outline(colour: str) -> None:
    assert np.asarray(outline(replace(CIRCLE, colour=colour))).min() < 60
