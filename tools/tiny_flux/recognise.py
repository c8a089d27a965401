"""Tell what is in a picture of flux-tiny, without a network: nearest of all reference pictures. NumPy and Pillow only.

The measure: the background is the colour of the palette nearest to the median of the picture's border. Then all
subjects, in all sizes, are drawn on that background and reduced to 32×32; the one with the least mean squared
difference to the picture, reduced alike, is the answer. The glyphs come from `glyphs.png`, so the emoji font is
not needed. `python -m tools.tiny_flux.recognise --write` draws that sheet anew from the font.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .pictures import FONT, PICTURE_SIZE, compose, fit, glyph, shape
from .prompts import COLOURS, SIZES, THINGS, subjects

SHEET = Path(__file__).with_name("glyphs.png")
_CELL = 48  # a glyph on the sheet, in pixels
_COLUMNS = 8
_GRID = 32  # pictures are compared at this size
_BORDER = 4 / PICTURE_SIZE  # of the picture's side, where nothing but background is


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a picture shows."""

    background: str
    subject: str  # "apple", "red circle"
    size: str
    distance: float  # root of the mean squared difference to the reference, in levels of 255


@dataclass(frozen=True, slots=True)
class _References:
    """All reference pictures on one background."""

    pictures: NDArray[np.float32]  # [N, 32·32·3]
    squares: NDArray[np.float32]  # [N], the squared length of each
    names: list[tuple[str, str]]  # subject and size of each


class Recogniser:
    """Holds the reference pictures; made once, used for many pictures. Not bound to a thread after its making."""

    def __init__(self) -> None:
        self._glyphs = read_sheet()
        self._references = lru_cache(maxsize=None)(self._build)

    def background(self, picture: Image.Image) -> str:
        """The name of the colour nearest to the median of the border."""
        pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
        width = max(1, round(_BORDER * min(pixels.shape[:2])))
        edges = (pixels[:width], pixels[-width:], pixels[:, :width], pixels[:, -width:])
        median = np.median(np.concatenate([edge.reshape(-1, 3) for edge in edges]), axis=0)
        return min(COLOURS, key=lambda name: float(np.square(median - COLOURS[name]).sum()))

    def __call__(self, picture: Image.Image) -> Recognised:
        """What the picture shows. Any size; compared at 32×32."""
        background = self.background(picture)
        references = self._references(background)
        small = picture.convert("RGB").resize((_GRID, _GRID), Image.Resampling.BOX)
        vector = np.asarray(small, dtype=np.float32).ravel()
        distances = references.squares - 2 * (references.pictures @ vector) + vector @ vector
        nearest = int(distances.argmin())
        subject, size = references.names[nearest]
        # Anew: the difference of large sums above is good enough to find the nearest only.
        rms = float(np.square(references.pictures[nearest] - vector).mean()) ** 0.5
        return Recognised(background, subject, size, rms)

    def _build(self, background: str) -> _References:
        pictures, names = [], []
        for subject in subjects():
            for size, side in SIZES.items():
                whole = compose(self._draw(subject, side), background)
                small = whole.resize((_GRID, _GRID), Image.Resampling.BOX)
                pictures.append(np.asarray(small, dtype=np.float32).ravel())
                names.append((subject, size))
        stacked = np.stack(pictures)
        return _References(stacked, np.square(stacked).sum(axis=1), names)

    def _draw(self, subject: str, side: int) -> Image.Image:
        if subject in self._glyphs:
            return fit(self._glyphs[subject], side)
        colour, name = subject.split()
        return shape(name, colour, side)


def read_sheet() -> dict[str, Image.Image]:
    """The glyphs of all things, RGBA, from the sheet."""
    sheet = Image.open(SHEET).convert("RGBA")
    glyphs = {}
    for index, thing in enumerate(THINGS):
        left, top = index % _COLUMNS * _CELL, index // _COLUMNS * _CELL
        cell = sheet.crop((left, top, left + _CELL, top + _CELL))
        glyphs[thing] = cell.crop(cell.getchannel("A").getbbox())
    return glyphs


def write_sheet(font: Path) -> None:
    """Draw the sheet from the emoji font. Raises FontMissing."""
    rows = -(-len(THINGS) // _COLUMNS)
    sheet = Image.new("RGBA", (_COLUMNS * _CELL, rows * _CELL))
    for index, thing in enumerate(THINGS):
        sheet.paste(fit(glyph(thing, font), _CELL), (index % _COLUMNS * _CELL, index // _COLUMNS * _CELL))
    sheet.quantize(256, Image.Quantize.FASTOCTREE).save(SHEET, optimize=True)


def main() -> None:
    """Command line: say what pictures show, or write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="draw the sheet of glyphs from the font")
    parser.add_argument("--font", type=Path, default=FONT)
    options = parser.parse_args()
    if options.write:
        write_sheet(options.font)
    recogniser = Recogniser()
    for path in options.pictures:
        with Image.open(path) as picture:
            print(path, recogniser(picture))


if __name__ == "__main__":
    main()
