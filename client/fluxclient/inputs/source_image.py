"""The picture that image to image begins with, as it goes to the server: the bytes of a file."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fluxclient.errors import InvalidArgument

SourceImage = str | os.PathLike[str] | bytes | Image.Image
"""The path of a PNG, JPEG or WebP file, the bytes of one, or a picture of Pillow's."""

_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
"""Of Pillow's, those that a PNG file can hold and that anything reads."""

_DEEP_GREY = {"I;16": (65535,), "I;16B": (65535,), "I;16L": (65535,), "I": (255, 65535), "F": (1, 255, 65535)}
"""Modes with more levels than 256, and what white may be in them: the first that no pixel is above."""

_FAST = 1  # zlib's level: the file lives for one request


def image_file(value: object) -> bytes:
    """The file of a SourceImage. Raises InvalidArgument for what is none; the pixels are the server's to judge."""
    if isinstance(value, Image.Image):
        return _png(value)
    if isinstance(value, bytes | bytearray | memoryview):
        file, subject = bytes(value), f"is {len(value)} bytes that are"
    elif isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        file, subject = _read(path), f"is {path!r}, which is"
    else:
        problem = f"is a {type(value).__name__}; must be a path, the bytes of a file, or a picture of Pillow's"
        raise InvalidArgument(problem, field="image")
    if not _is_picture(file):
        raise InvalidArgument(f"{subject} no PNG, JPEG or WebP file", field="image")
    return file


def drawn_steps(num_inference_steps: int, strength: float) -> int:
    """How many steps image to image takes of these: it begins where noise of this strength would be left.

    The formula is that of diffusers' `FluxImg2ImgPipeline.get_timesteps`.
    """
    within = min(max(strength, 0.0), 1.0)
    left_out = int(max(num_inference_steps - num_inference_steps * within, 0))
    return num_inference_steps - left_out


def _read(path: str | bytes) -> bytes:
    try:
        return Path(os.fsdecode(path)).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidArgument(f"is {path!r}, which cannot be read: {reason}", field="image") from None


def _is_picture(file: bytes) -> bool:
    """By how it begins: what is broken further on, or too large, the server finds."""
    if file[:4] == b"RIFF":
        return file[8:12] == b"WEBP"
    return file.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    try:
        plain = _plain(ImageOps.exif_transpose(image))  # a PNG file would not say how the camera was held
        plain.save(buffer, "PNG", compress_level=_FAST)
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow, of a broken PNG file
        raise InvalidArgument(f"cannot be made a PNG file: {error}", field="image") from error
    return buffer.getvalue()


def _plain(image: Image.Image) -> Image.Image:
    """The same in one of _PNG_MODES. What is transparent stays so: the server lays it on white."""
    if image.mode in _DEEP_GREY:
        return _eight_bits(image)
    if image.mode in _PNG_MODES:
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow itself cuts off what is above 255."""
    levels = np.asarray(image, np.float64)
    low, high = float(levels.min()), float(levels.max())
    white = next((white for white in _DEEP_GREY[image.mode] if high <= white), None)
    if white is None or not low >= 0:
        raise ValueError(f"its levels go from {low:g} to {high:g}; must be within 0 to {_DEEP_GREY[image.mode][-1]}")
    grey = Image.fromarray((levels * (255 / white)).round().astype(np.uint8))
    if (transparent := image.info.get("transparency")) is not None:  # one of the levels
        grey.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return grey
