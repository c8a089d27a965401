"""Sizes of pictures."""

from __future__ import annotations

Size = tuple[int, int]
"""(height, width) in pixels."""

SIZE_MULTIPLE = 16
"""The VAE shrinks by 8 and FLUX packs 2x2 latents into one token."""

MIN_EDGE = 64


def parse_size(value: str) -> Size:
    """`WIDTHxHEIGHT` in pixels, as people write sizes → (height, width)."""
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError("must be WIDTHxHEIGHT in pixels, such as 1024x1024")
    size = int(height), int(width)
    if any(edge % SIZE_MULTIPLE or not MIN_EDGE <= edge <= 8192 for edge in size):
        raise ValueError(f"width and height must be multiples of {SIZE_MULTIPLE} from {MIN_EDGE} to 8192")
    return size
