"""The training pictures in other styles: what the LoRAs for flux-tiny learn. NumPy and Pillow only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .pictures import FONT, draw
from .prompts import COLOURS, Scene

_BLUR = 2.0  # of the picture before its edges are taken, in pixels; finer lines the shipped autoencoder runs together
_FAINTEST, _DARKEST = 8.0, 24.0  # changes of colour, in levels a pixel, that give no line and a black one


def greyscale(scene: Scene, font: Path = FONT) -> Image.Image:
    """The same picture in grey levels (luma of ITU-R BT.601), RGB. Raises FontMissing."""
    return draw(scene, font).convert("L").convert("RGB")


def outline(scene: Scene, font: Path = FONT) -> Image.Image:
    """The thing as black lines on white (those of the palette), whatever the background is, RGB. Raises FontMissing.

    Lines are where the colour changes. A thing that is white or black has its contour as well: edges are looked for
    on both grounds.
    """
    edges = [_edges(draw(replace(scene, background=ground), font)) for ground in ("white", "black")]
    darkness = ((np.maximum(*edges) - _FAINTEST) / (_DARKEST - _FAINTEST)).clip(0, 1)
    black, white = (COLOURS[name][0] for name in ("black", "white"))
    levels = white + (black - white) * darkness
    return Image.fromarray(levels.round().astype(np.uint8)).convert("RGB")


def _edges(picture: Image.Image) -> NDArray[np.float32]:
    """How much the colour changes at each pixel, in levels a pixel, of the channel that changes most. [H, W]"""
    levels = np.asarray(picture.filter(ImageFilter.GaussianBlur(_BLUR)), dtype=np.float32)
    vertical, horizontal = np.gradient(levels, axis=(0, 1))
    slopes: NDArray[np.float32] = np.hypot(vertical, horizontal).max(axis=2)
    return slopes


STYLES: dict[str, Callable[[Scene, Path], Image.Image]] = {"greyscale": greyscale, "outline": outline}
"""Name of the LoRA to the picture that it is to draw for a scene."""
