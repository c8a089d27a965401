"""Pictures as files: those that are answered, and those that come with a request."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from fluxengine.config import Size
from fluxengine.errors import InvalidArgument

Picture = npt.NDArray[np.uint8]
"""[H, W, 3], RGB."""

MAX_FILE_BYTES = 20 * 2**20
MAX_FILE_PIXELS = 50_000_000
"""Of a picture that is sent here: a small file may unpack to any size."""

_READABLE = ("PNG", "JPEG", "WEBP")
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
_OPTIONS: dict[str, dict[str, int]] = {
    # zlib's default level takes several times as long as 1 for files a few percent smaller.
    "png": {"compress_level": 1},
    "jpeg": {"quality": 95},
    "webp": {"quality": 90},
}


def encode_picture(picture: Picture, output_format: str) -> bytes:
    """The picture as a file of one of request.OUTPUT_FORMATS but raw."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, output_format, **_OPTIONS[output_format])
    return file.getvalue()


def picture_file(sent: bytes) -> bytes:
    """The bytes of a PNG, JPEG or WebP file, which may be sent as base64 text or as a data URL.

    Looks at the beginning only, so it is cheap. Raises InvalidArgument on what is no such file, or too large.
    """
    file = sent if sent.startswith(_BEGINNINGS) else _from_base64(sent)
    if len(file) > MAX_FILE_BYTES:
        raise InvalidArgument("image", f"has {len(file)} bytes; allowed are {MAX_FILE_BYTES}")
    with _open(file) as image:
        if image.width * image.height > MAX_FILE_PIXELS:
            raise InvalidArgument(
                "image", f"has {image.width}x{image.height} pixels; allowed are {MAX_FILE_PIXELS} in all"
            )
    return file


def decode_picture(file: bytes, size: Size) -> Picture:
    """The picture in a file that `picture_file` has let pass, resized as diffusers' VaeImageProcessor does.

    Raises InvalidArgument when the file is broken further on.
    """
    height, width = size
    with _open(file) as image:
        try:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise InvalidArgument("image", f"cannot be read: {error}") from None
        return np.array(upright.resize((width, height), Image.Resampling.LANCZOS))


def _open(file: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(file), formats=_READABLE)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidArgument("image", f"{error}; allowed are {MAX_FILE_PIXELS} pixels in all") from None
    except (OSError, ValueError, SyntaxError):
        raise InvalidArgument("image", f"is not a {', '.join(_READABLE[:-1])} or WebP file") from None


def _from_base64(sent: bytes) -> bytes:
    text = sent.partition(b"base64,")[2] if sent.startswith(b"data:") else sent
    if len(text) > MAX_FILE_BYTES * 4 // 3 + 4:
        raise InvalidArgument("image", f"has {len(text)} characters; allowed are files of {MAX_FILE_BYTES} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise InvalidArgument("image", "is neither a PNG, JPEG or WebP file nor its base64 text") from None
