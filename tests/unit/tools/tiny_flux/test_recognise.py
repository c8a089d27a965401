"""The recogniser finds what was drawn, in what it was made from and in worse pictures, and does not say yes to all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tools.tiny_flux.pictures import PICTURE_SIZE, compose, fit, shape
from tools.tiny_flux.prompts import COLOURS, SHAPES, SIZES, THINGS
from tools.tiny_flux.recognise import Recogniser, read_sheet


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser()


def picture_of(thing: str, background: str, size: str) -> Image.Image:
    return compose(fit(read_sheet()[thing], SIZES[size]), background)


@pytest.mark.parametrize("thing", THINGS)
def test_every_thing_is_told_from_all_others(recogniser: Recogniser, thing: str) -> None:
    for index, background in enumerate(COLOURS):
        size = list(SIZES)[index % 3]
        found = recogniser(picture_of(thing, background, size))
        assert (found.subject, found.background, found.size) == (thing, background, size)
        assert found.distance < 1


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_told_from_all_others(recogniser: Recogniser, name: str) -> None:
    for colour in COLOURS:
        background = "white" if colour != "white" else "black"
        found = recogniser(compose(shape(name, colour, SIZES["medium"]), background))
        assert (found.subject, found.background) == (f"{colour} {name}", background)


def test_blur_noise_and_other_sizes_do_not_matter(recogniser: Recogniser) -> None:
    rng = np.random.default_rng(0)
    for thing in THINGS:
        blurred = picture_of(thing, "cyan", "large").filter(ImageFilter.GaussianBlur(3))
        noisy = np.asarray(blurred, dtype=float) + rng.normal(0, 15, (PICTURE_SIZE, PICTURE_SIZE, 3))
        worse = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).resize((256, 256))
        found = recogniser(worse)
        assert (found.subject, found.background) == (thing, "cyan")


def test_the_distance_tells_pictures_that_show_nothing_known(recogniser: Recogniser) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.uint8))
    assert recogniser(noise).distance > 30
