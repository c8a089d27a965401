from __future__ import annotations

import base64
import io
import math
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from fluxengine.errors import InvalidArgument
from fluxengine.wire.inputs import OUTPUT_FORMATS
from fluxengine.wire.picture_files import (
    MAX_FILE_BYTES,
    MAX_FILE_EDGE,
    MAX_FILE_PIXELS,
    Picture,
    decode_picture,
    encode_picture,
    picture_file,
)


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


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b" \t"])
def test_base64_may_be_broken_into_lines(line: bytes) -> None:
    file = sent("PNG")
    text = line + line.join(base64.encodebytes(file).splitlines()) + line
    assert [picture_file(form) for form in (text, b"data:image/PNG;Base64," + text)] == [file] * 2


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda text: text.replace(b"+", b"-").replace(b"/", b"_"), r"\(with \+ and /"),
        (lambda text: text[:-2], "padded with =.*: Incorrect padding"),
        (lambda text: b"data:image/png," + text, ": "),
    ],
)
def test_text_that_is_not_quite_base64(edit: Callable[[bytes], bytes], words: str) -> None:
    text = base64.b64encode(sent("PNG", size=(90, 20)))
    assert b"+" in text and b"/" in text
    with pytest.raises(
        InvalidArgument, match=f"image: is neither a PNG, JPEG or WebP file nor its base64 text.*{words}"
    ):
        picture_file(edit(text))


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


def png(width: int, height: int, depth: int, colour: int, rows: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG file of any kind, also of kinds that Pillow does not write. `rows` are its bytes without filter bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = len(rows) // height if height else 0
    lines = b"".join(b"\0" + rows[start : start + row] for start in range(0, len(rows), row or 1))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
            more,
            chunk(b"IDAT", zlib.compress(lines) if rows else b""),
            chunk(b"IEND", b""),
        ]
    )


GREY, COLOUR, GREY_AND_ALPHA, COLOUR_AND_ALPHA = 0, 2, 4, 6


@pytest.mark.parametrize("kind", [GREY, COLOUR, GREY_AND_ALPHA, COLOUR_AND_ALPHA])
def test_sixteen_bits_are_scaled_to_eight(kind: int) -> None:
    channels = {GREY: 1, COLOUR: 3, GREY_AND_ALPHA: 2, COLOUR_AND_ALPHA: 4}[kind]
    ramp = np.full((64, 256, channels), 0xFFFF, ">u2")
    colours = 1 if kind in (GREY, GREY_AND_ALPHA) else 3
    ramp[..., :colours] = (np.arange(256) * 257)[None, :, None]
    picture = decode_picture(picture_file(png(256, 64, 16, kind, ramp.tobytes())), (64, 256))
    assert (picture == np.arange(256)[None, :, None]).all()


def test_sixteen_bits_between_the_levels_of_eight() -> None:
    levels = np.tile(np.arange(0, 65536, 64, dtype=">u2"), (16, 1))
    picture = decode_picture(picture_file(png(1024, 16, 16, GREY, levels.tobytes())), (16, 1024))
    assert (picture[0, :, 0] == (levels[0].astype(float) / 257).round()).all()


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("WEBP", "RGBA")])
def test_what_is_transparent_lies_on_white(kind: str, mode: str) -> None:
    picture = np.zeros((32, 64, 4), np.uint8)  # all black: opaque, half and not at all
    picture[:, 16:, 3], picture[:, 32:, 3] = 128, 255
    image = Image.fromarray(picture)
    if mode == "P":
        image = image.quantize(method=Image.Quantize.FASTOCTREE)
    file = io.BytesIO()
    image.convert(mode).save(file, kind, lossless=True)
    found = decode_picture(picture_file(file.getvalue()), (32, 64))
    assert (found[:, :16] == 255).all()
    assert (abs(found[:, 16:32].astype(int) - 127) <= 1).all()
    assert (found[:, 32:] == 0).all()


@pytest.mark.parametrize(("depth", "colour"), [(1, GREY), (8, GREY), (16, GREY), (8, COLOUR)])
def test_a_colour_that_stands_for_transparent_lies_on_white(depth: int, colour: int) -> None:
    key = b"\0\0" * (3 if colour == COLOUR else 1)
    more = struct.pack(">I", len(key)) + b"tRNS" + key + struct.pack(">I", zlib.crc32(b"tRNS" + key))
    rows = bytes(depth * 16 * (3 if colour == COLOUR else 1) // 8 * 16)  # all of that colour
    assert (decode_picture(picture_file(png(16, 16, depth, colour, rows, more)), (16, 16)) == 255).all()


def test_other_kinds_of_colours_and_animations() -> None:
    red = Image.new("RGB", (16, 16), "red")
    file = io.BytesIO()
    red.convert("CMYK").save(file, "JPEG", quality=100)
    picture = decode_picture(picture_file(file.getvalue()), (16, 16))
    assert (abs(picture.astype(int) - [255, 0, 0]) <= 8).all()
    for kind in ("PNG", "WEBP"):
        file = io.BytesIO()
        red.save(file, kind, save_all=True, append_images=[Image.new("RGB", (16, 16), "blue")], lossless=True)
        assert (decode_picture(picture_file(file.getvalue()), (16, 16)) == [255, 0, 0]).all()


@pytest.mark.parametrize("size", [(1, MAX_FILE_EDGE), (MAX_FILE_EDGE, 1), (1, 1)])
def test_sides_that_are_odd_but_allowed(size: tuple[int, int]) -> None:
    rows = bytes(size[0] * size[1])
    assert not decode_picture(picture_file(png(*size, 8, GREY, rows)), (64, 96)).any()


@pytest.mark.parametrize("size", [(1, 65535), (65535, 1), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (0, 5), (5, 0)])
def test_absurd_sides_are_the_callers_fault(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidArgument, match="image: "):
        picture_file(png(*size, 8, GREY, bytes(8)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_files_that_lie_are_the_callers_fault(kind: str) -> None:
    file = sent(kind, size=(200, 100))
    generator = np.random.default_rng(7)
    for _ in range(200):
        broken = bytearray(file[: generator.integers(4, len(file) + 1)])
        for place in generator.integers(4, len(broken), generator.integers(1, 9)) if len(broken) > 4 else ():
            broken[place] = generator.integers(256)
        try:
            picture = decode_picture(picture_file(bytes(broken)), (64, 96))
        except InvalidArgument as error:
            assert error.cause == "image" and len(str(error)) <= 500
        else:
            assert picture.shape == (64, 96, 3)


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was unpacked"))
    edge = math.isqrt(MAX_FILE_PIXELS)
    for size in ((edge + 1, edge + 1), (30_000, 30_000)):
        with pytest.raises(InvalidArgument, match=f"image: .*allowed are {MAX_FILE_PIXELS}"):
            picture_file(png(*size, 8, GREY))


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
