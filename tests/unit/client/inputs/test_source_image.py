"""What image to image begins with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from fluxclient import InvalidArgument
from fluxclient.inputs.source_image import drawn_steps, image_file
from tests.unit.client.fakes.answers import picture


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_files_go_as_they_are(kind: str, tmp_path: Path) -> None:
    file = picture(kind=kind)
    path = tmp_path / "no suffix counts"
    path.write_bytes(file)
    sources: list[Any] = [file, bytearray(file), memoryview(file), str(path), path]
    assert [image_file(source) for source in sources] == [file] * 5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_a_picture_of_any_mode_becomes_a_png_file(mode: str) -> None:
    image = Image.effect_noise((8, 6), 50).convert("RGB").convert(mode)
    with Image.open(io.BytesIO(image_file(image))) as sent:
        assert (sent.format, sent.size) == ("PNG", (8, 6))
        expected, found = image.convert("RGB"), sent.convert("RGB")
        assert np.array_equal(np.asarray(expected), np.asarray(found))


@pytest.mark.parametrize(
    ("mode", "dtype", "white"),
    [
        ("I;16", "<u2", 65535),
        ("I;16B", ">u2", 65535),
        ("I", "int32", 65535),
        ("I", "int32", 255),
        ("F", "float32", 65535),
        ("F", "float32", 255),
        ("F", "float32", 1),
    ],
)
def test_deep_grey_is_scaled(mode: str, dtype: str, white: int) -> None:
    levels = np.tile(np.arange(256), (4, 1))
    deep = (levels * white / 255).astype(dtype)
    image = Image.frombytes(mode, (256, 4), deep.tobytes())
    with Image.open(io.BytesIO(image_file(image))) as sent:
        assert (sent.format, sent.mode) == ("PNG", "L")
        assert np.array_equal(np.asarray(sent), levels)


@pytest.mark.parametrize(
    ("levels", "words"),
    [([-1.0, 7.0], "-1 to 7; must be within 0 to 65535"), ([0.0, 7e4], "0 to 70000"), ([0.0, np.nan], "nan to nan")],
)
def test_levels_that_mean_nothing_known(levels: list[float], words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"cannot be made a PNG file: its levels go from {words}"):
        image_file(Image.fromarray(np.array([levels], np.float32)))


def test_a_picture_stands_as_the_file_that_it_comes_from(tmp_path: Path) -> None:
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        path = tmp_path / f"{turn}.jpg"
        Image.linear_gradient("L").resize((40, 24)).save(path, exif=exif)
        with Image.open(path) as phone, Image.open(io.BytesIO(image_file(phone))) as sent:
            upright = ImageOps.exif_transpose(phone)
            assert sent.size == upright.size == ((24, 40) if turn > 4 else (40, 24))
            assert np.array_equal(np.asarray(ImageOps.exif_transpose(sent)), np.asarray(upright))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGBa", "PA", "I;16"])
def test_what_is_transparent_stays_so(mode: str) -> None:
    levels = np.zeros((6, 8, 4), np.uint8)
    levels[:, 4:, 3] = 255
    image = Image.fromarray(levels)
    if mode in ("P", "PA"):
        image = image.quantize(method=Image.Quantize.FASTOCTREE)
    if mode == "I;16":
        image = Image.fromarray(levels[..., 3].astype(np.uint16) * 257)
        image.info["transparency"] = 0
    else:
        image = image.convert(mode)
    with Image.open(io.BytesIO(image_file(image))) as sent:
        assert np.array_equal(np.asarray(sent.convert("RGBA"))[..., 3], levels[..., 3])


def test_a_picture_of_a_file_that_is_cut_off() -> None:
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    with pytest.raises(InvalidArgument, match="cannot be made a PNG file"):
        image_file(Image.open(io.BytesIO(whole.getvalue()[:1000])))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "is 0 bytes that are no PNG, JPEG or WebP file"),
        (b"GIF89a and so on", "is 16 bytes that are no PNG, JPEG or WebP file"),
        (b"RIFF\0\0\0\0WAVEfmt", "no PNG, JPEG or WebP file"),
        ("missing.png", "is 'missing.png', which cannot be read: No such file or directory"),
        (".", "is '.', which cannot be read: Is a directory"),
        ("a\0b", "which cannot be read: embedded null byte"),
        (Path("notes.txt"), "is 'notes.txt', which is no PNG, JPEG or WebP file"),
        (7, "is a int; must be a path, the bytes of a file, or a picture"),
        (None, "is a NoneType; must be"),
        (np.zeros((8, 8, 3), np.uint8), "is a ndarray; must be"),
    ],
)
def test_what_is_no_picture(source: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("of mine")
    with pytest.raises(InvalidArgument) as caught:
        image_file(source)
    assert caught.value.field == "image"
    assert words in caught.value.text


@pytest.mark.parametrize(
    ("steps", "strength", "drawn"),
    [(10, 1.0, 10), (10, 0.6, 6), (4, 0.6, 3), (28, 0.5, 14), (10, 0.01, 1), (1, 0.6, 1), (9, 7.0, 9), (9, -1e300, 0)],
)
def test_steps_that_are_drawn(steps: int, strength: float, drawn: int) -> None:
    assert drawn_steps(steps, strength) == drawn
