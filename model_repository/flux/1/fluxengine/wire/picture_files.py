"""Pictures as files: those that are answered, and those that come with a request."""

from __future__ import annotations

import base64
import binascii
import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from fluxengine.errors import InvalidArgument, in_short
from fluxengine.size import Size

Picture = npt.NDArray[np.uint8]
"""[H, W, 3], RGB."""

MAX_FILE_BYTES = 20 * 2**20
MAX_FILE_PIXELS = 50_000_000
"""Of a picture that is sent here: a small file may unpack to any size."""
MAX_FILE_EDGE = 32_768

_READABLE = ("PNG", "JPEG", "WEBP")
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
_OPTIONS: dict[str, dict[str, int]] = {
    # zlib's default level takes several times as long as 1 for files a few percent smaller.
    "png": {"compress_level": 1},
    "jpeg": {"quality": 95},
    "webp": {"quality": 90},
}


def encode_picture(picture: Picture, output_format: str) -> bytes:
    """The picture as a file of one of wire.inputs.OUTPUT_FORMATS but raw."""
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
        width, height = image.size
        if not (0 < width <= MAX_FILE_EDGE and 0 < height <= MAX_FILE_EDGE and width * height <= MAX_FILE_PIXELS):
            raise InvalidArgument(
                "image",
                f"has {width}x{height} pixels; allowed are {MAX_FILE_PIXELS} in all, and 1 to {MAX_FILE_EDGE} a side",
            )
    return file


def decode_picture(file: bytes, size: Size) -> Picture:
    """The picture in a file that `picture_file` has let pass, resized as diffusers' VaeImageProcessor does.

    It stands upright as its EXIF data say, what is transparent lies on white, and of an animation it is the first
    picture. Raises InvalidArgument when the file is broken further on.
    """
    height, width = size
    with _open(file) as image:
        try:
            return np.array(_rgb(ImageOps.exif_transpose(image)).resize((width, height), Image.Resampling.LANCZOS))
        except Exception as error:  # Pillow's readers raise nearly anything on a broken file
            raise InvalidArgument("image", f"cannot be read: {in_short(error)}") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Of 16-bit grey, whose upper levels Pillow itself makes white."""
    levels = np.asarray(image)
    grey = Image.fromarray((levels / np.float32(257)).round().astype(np.uint8))
    if (transparent := image.info.get("transparency")) is not None:  # one of the levels
        grey.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return grey


def _open(file: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(file), formats=_READABLE)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidArgument("image", f"{error}; allowed are {MAX_FILE_PIXELS} pixels in all") from None
    except Exception:  # as above
        raise InvalidArgument("image", f"is not a {', '.join(_READABLE[:-1])} or WebP file") from None


def _from_base64(sent: bytes) -> bytes:
    head, comma, data = sent.partition(b",")
    text = data if comma and head.lower().startswith(b"data:") and head.lower().endswith(b";base64") else sent
    text = text.translate(None, b" \t\r\n")  # as e-mail and `base64` break its lines
    if len(text) > MAX_FILE_BYTES * 4 // 3 + 4:
        raise InvalidArgument("image", f"has {len(text)} characters; allowed are files of {MAX_FILE_BYTES} bytes")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidArgument(
            "image", f"is neither a PNG, JPEG or WebP file nor its base64 text (with + and /, padded with =): {error}"
        ) from None
