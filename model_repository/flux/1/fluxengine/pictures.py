"""Pictures as files."""

from __future__ import annotations

import io

from PIL import Image

from fluxengine.ticket import Picture

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
