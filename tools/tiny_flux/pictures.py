"""The pictures that flux-tiny learns: a glyph of the emoji font or a flat shape on a plain background."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .prompts import COLOURS, SIZES, THINGS, Scene

PICTURE_SIZE = 128
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
_STRIKE = 109  # the only size of the bitmap glyphs in Noto Color Emoji
_OVERSAMPLE = 4  # flat shapes are drawn this much larger and reduced, for soft edges


class FontMissing(RuntimeError):
    """The emoji font is not installed."""


@lru_cache(maxsize=256)
def glyph(thing: str, font: Path = FONT) -> Image.Image:
    """The emoji of one thing, RGBA, cropped to what is visible. Raises FontMissing."""
    if not font.is_file():
        raise FontMissing(
            f"no emoji font at {font}: install it (apt-get install fonts-noto-color-emoji) or give --font"
        )
    face = ImageFont.truetype(str(font), _STRIKE)
    canvas = Image.new("RGBA", (2 * _STRIKE, 2 * _STRIKE))
    ImageDraw.Draw(canvas).text((_STRIKE, _STRIKE), THINGS[thing], font=face, embedded_color=True, anchor="mm")
    box = canvas.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox()
    if box is None:
        raise FontMissing(f"the font {font} has no picture for {thing!r}; it must be Noto Color Emoji")
    return canvas.crop(box)


def shape(name: str, colour: str, side: int) -> Image.Image:
    """A flat shape, RGBA, `side` pixels on its longest side."""
    full = side * _OVERSAMPLE
    mask = Image.new("L", (full, full))
    draw = ImageDraw.Draw(mask)
    last = full - 1
    if name == "circle":
        draw.ellipse((0, 0, last, last), fill=255)
    elif name == "square":
        inset = full // 16
        draw.rectangle((inset, inset, last - inset, last - inset), fill=255)
    elif name == "triangle":
        draw.polygon(((full / 2, full * 0.05), (last, full * 0.95), (0, full * 0.95)), fill=255)
    elif name == "diamond":
        draw.polygon(((full / 2, 0), (full * 0.85, full / 2), (full / 2, last), (full * 0.15, full / 2)), fill=255)
    elif name == "star":
        points = []
        for corner in range(10):
            radius = full / 2 if corner % 2 == 0 else full * 0.2
            angle = math.pi * corner / 5
            points.append((full / 2 + radius * math.sin(angle), full / 2 - radius * math.cos(angle)))
        draw.polygon(points, fill=255)
    else:
        raise ValueError(f"unknown shape {name!r}")
    picture = Image.new("RGBA", (side, side), COLOURS[colour])
    picture.putalpha(mask.resize((side, side), Image.Resampling.BOX))
    return picture


def fit(picture: Image.Image, side: int) -> Image.Image:
    """The picture scaled so that its longest side is `side` pixels."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def compose(subject: Image.Image, background: str) -> Image.Image:
    """A 128×128 RGB picture: the subject in the middle of the background."""
    canvas = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), COLOURS[background])
    corner = ((PICTURE_SIZE - subject.width) // 2, (PICTURE_SIZE - subject.height) // 2)
    canvas.paste(subject, corner, subject)
    return canvas


def draw(scene: Scene, font: Path = FONT) -> Image.Image:
    """The 128×128 picture of a scene. Raises FontMissing."""
    return compose(_subject(scene.thing, scene.colour, SIZES[scene.size], font), scene.background)


@lru_cache(maxsize=512)
def _subject(thing: str, colour: str | None, side: int, font: Path) -> Image.Image:
    """What stands in the picture, RGBA, its longest side `side` pixels."""
    return fit(glyph(thing, font), side) if colour is None else shape(thing, colour, side)
