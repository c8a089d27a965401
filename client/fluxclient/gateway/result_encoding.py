"""Results as the answers carry them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

from PIL import Image

from fluxclient.result import Result


async def files_of(result: Result, kind: str, quality: int | None = None) -> tuple[bytes, ...]:
    """The files as the server made them; with a `quality`, made here out of raw pixels."""
    if quality is None:
        return result.files
    return tuple([await encode(image, kind, quality) for image in result.images])


async def encode(image: Image.Image, kind: str, quality: int | None = None) -> bytes:
    """A file of `kind` (png, jpeg, webp); in another thread, as a large one takes a while."""
    return await asyncio.to_thread(_encode, image, kind, quality)


def base64_text(file: bytes) -> str:
    return base64.b64encode(file).decode("ascii")


def info_of(result: Result) -> dict[str, Any]:
    """As the server says it."""
    info: dict[str, Any] = json.loads(result.info.to_json())
    return info


def _encode(image: Image.Image, kind: str, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    options = {} if quality is None else {"quality": quality}
    image.save(buffer, kind, **options)
    return buffer.getvalue()
