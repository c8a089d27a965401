from __future__ import annotations

import base64
import io
import math
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fluxengine.errors import InvalidArgument
from fluxengine.pictures import MAX_FILE_BYTES, MAX_FILE_PIXELS, Picture, decode_picture, encode_picture, picture_file
from fluxengine.request import OUTPUT_FORMATS


@pytest.fixture
def picture() -> Picture:
    """A smooth one, as lossy formats expect, wider than high, with no two channels alike."""
    y, x = np.mgrid[0:48, 0:80]
    picture: Picture = np.stack([x * 3, y * 5, 255 - x - y], axis=-1).astype(np.uint8)
    return picture


@pytest.mark.parametrize("output_format", [name for name in OUTPUT_FORMATS if name != "raw"])
def test_a_file_of_each_format(picture: Picture, output_format: str) -> None:
    image = Image.open(io.BytesIO(encode_picture(picture, output_format)))
    assert (image.format, image.size, image.mode) == (output_format.upper(), (80, 48), "RGB")
    difference = np.abs(np.asarray(image).astype(int) - picture)
    assert difference.mean() <= (0 if output_format == "png" else 3)


def test_only_formats_that_are_files(picture: Picture) -> None:
    with pytest.raises(KeyError):
        encode_picture(picture, "raw")


def sent(kind: str = "PNG", size: tuple[int, int] = (40, 20), mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    across = np.linspace(0, 255, size[0], dtype=np.uint8)[None].repeat(size[1], 0)
    Image.fromarray(np.stack([across] * 3, -1)).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_file_may_come_as_bytes_as_base64_or_as_a_data_url(kind: str) -> None:
    file = sent(kind)
    text = base64.b64encode(file)
    assert [picture_file(form) for form in (file, text, b"data:image/png;base64," + text)] == [file] * 3


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_any_kind_of_pixels_becomes_rgb(mode: str) -> None:
    picture = decode_picture(picture_file(sent(mode=mode)), (32, 48))
    assert picture.shape == (32, 48, 3)
    assert picture.dtype == np.uint8
    assert picture[:, 0].mean() < 40 < 200 < picture[:, -1].mean()


def test_it_stands_upright_as_the_camera_was_held() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture = decode_picture(sent("JPEG", exif=exif), (40, 20))
    assert picture[0].mean() < 40 < 200 < picture[-1].mean()


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was unpacked"))
    edge = math.isqrt(MAX_FILE_PIXELS)
    for size in ((edge + 1, edge + 1), (30_000, 30_000)):
        head = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
        chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
        idat = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
        with pytest.raises(InvalidArgument, match=f"image: .*allowed are {MAX_FILE_PIXELS}"):
            picture_file(b"\x89PNG\r\n\x1a\n" + chunk + idat)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused(kind: str) -> None:
    for form in (sent(kind), base64.b64encode(sent(kind))):
        with pytest.raises(InvalidArgument, match="PNG, JPEG or WebP"):
            picture_file(form)


def test_too_large_a_file_is_refused_unread() -> None:
    for form in (b"\x89PNG" + bytes(MAX_FILE_BYTES), b"A" * (MAX_FILE_BYTES * 4 // 3 + 8)):
        with pytest.raises(InvalidArgument, match=f"allowed are (files of )?{MAX_FILE_BYTES}"):
            picture_file(form)


def test_what_breaks_further_on_is_said_then() -> None:
    file = picture_file(sent("JPEG", size=(400, 200))[:-500])
    with pytest.raises(InvalidArgument, match="image: cannot be read"):
        decode_picture(file, (64, 64))
