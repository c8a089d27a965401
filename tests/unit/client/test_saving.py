"""Files of results: the format goes by the suffix, and a PNG file says how it was made."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from fluxclient import Result
from fluxclient.inputs.request import build_request
from fluxclient.result import read_answer
from fluxclient.transport.grpc_messages import read_response
from tests.unit.client.fakes.answers import INFO, final, picture


def results_of(message: Any, prompt: str = "a cat") -> list[Result]:
    request = build_request((prompt,), {}, timeout_s=None)
    answer = read_answer(read_response(message, request), request)
    assert isinstance(answer, list)
    return answer


def same(image: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(image), np.asarray(other))


@pytest.mark.parametrize(("kind", "suffix"), [("JPEG", ".jpg"), ("JPEG", ".jpeg"), ("WEBP", ".webp")])
def test_save_writes_the_file_as_it_came(tmp_path: Path, kind: str, suffix: str) -> None:
    sent = picture(kind=kind)
    (result,) = results_of(final([[sent]], [[1]]))

    assert result.save(tmp_path / f"a{suffix}") == [tmp_path / f"a{suffix}"]
    assert (tmp_path / f"a{suffix}").read_bytes() == sent


def test_save_converts_by_suffix(tmp_path: Path) -> None:
    (result,) = results_of(final([[picture()]], [[1]]))
    (written,) = result.save(str(tmp_path / "a.webp"))

    assert Image.open(io.BytesIO(written.read_bytes())).format == "WEBP"


def test_save_numbers_several_and_finds_the_suffix(tmp_path: Path) -> None:
    (result,) = results_of(final([[picture("red", "JPEG"), picture("blue", "JPEG")]], [[1, 2]]))

    assert result.save(tmp_path / "v1") == [tmp_path / "v1-0.jpg", tmp_path / "v1-1.jpg"]
    assert [place.read_bytes() for place in (tmp_path / "v1-0.jpg", tmp_path / "v1-1.jpg")] == list(result.files)


def test_save_refuses_an_unknown_suffix(tmp_path: Path) -> None:
    (result,) = results_of(final([[picture()]], [[1]]))
    with pytest.raises(ValueError):
        result.save(tmp_path / "a.docx")
    assert list(tmp_path.iterdir()) == []


# --- what a PNG file says of itself


def noise(size: tuple[int, int] = (32, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("prompt", ["a cat", "ein „Bär“ – 二\n🐻", "", "tEXt\0\\\"'", "x" * 4096])
def test_saved_is_read_back_with_everything(tmp_path: Path, prompt: str) -> None:
    (result,) = results_of(
        final([[encoded(noise())]], [[2**63 - 1]], lora="paper:0.5", step_cache={"on": True}), prompt
    )
    read_back = Result.from_file(*result.save(tmp_path / "a.png"))

    assert read_back.prompt == result.prompt == prompt
    assert read_back.seeds == (2**63 - 1,)
    assert read_back.info == result.info
    assert read_back.info.extra == {"step_cache": {"on": True}}
    assert read_back.request_id == result.request_id
    assert same(read_back.image, noise())
    assert read_back.files == ((tmp_path / "a.png").read_bytes(),)


def test_texts_of_a_saved_file(tmp_path: Path) -> None:
    (result,) = results_of(final([[picture()]], [[7]]))
    (path,) = result.save(tmp_path / "a.png")
    with Image.open(path) as image:
        texts_of = dict(image.text)

    assert json.loads(texts_of.pop("info")) == INFO
    assert texts_of == {
        "prompt": "a cat",
        "seed": "7",
        "num_inference_steps": "8",
        "guidance_scale": "3.5",
        "size": "32x16",
        "model": "flux-tiny",
        "request_id": result.request_id,
    }


def test_model_without_guidance_has_no_such_text(tmp_path: Path) -> None:
    (result,) = results_of(final([[picture()]], [[7]], guidance_scale=None))
    (path,) = result.save(tmp_path / "a.png")
    with Image.open(path) as image:
        assert "guidance_scale" not in image.text
    assert Result.from_file(path).info.guidance_scale is None


def test_each_of_several_has_its_own_seed(tmp_path: Path) -> None:
    (result,) = results_of(final([[picture("red"), picture("blue"), picture("lime")]], [[5, 6, 7]]))
    read_back = [Result.from_file(path) for path in result.save(tmp_path / "a.png")]

    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a-0.png", "a-1.png", "a-2.png"]
    assert [one.seeds for one in read_back] == [(5,), (6,), (7,)]
    assert [one.image.getpixel((0, 0)) for one in read_back] == [(255, 0, 0), (0, 0, 255), (0, 255, 0)]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_other_formats_are_saved_as_png_with_their_texts(tmp_path: Path, kind: str) -> None:
    (result,) = results_of(final([[encoded(noise(), kind)]], [[5]]))
    read_back = Result.from_file(*result.save(tmp_path / "a.png"))

    assert (read_back.image.format, read_back.seeds) == ("PNG", (5,))
    assert same(read_back.image, result.image)


def test_raw_pixels_are_saved_as_png(tmp_path: Path) -> None:
    (of_file,) = results_of(final([[encoded(noise())]], [[5]]))
    result = replace(of_file, images=(noise(),), files=())
    (path,) = result.save(tmp_path / "a")

    assert path.name == "a.png"
    assert same(Result.from_file(path).image, noise())


def test_what_was_read_back_can_be_saved_again(tmp_path: Path) -> None:
    (result,) = results_of(final([[encoded(noise())]], [[5]]))
    (first,) = result.save(tmp_path / "a.png")
    (second,) = Result.from_file(first).save(tmp_path / "b.png")

    assert second.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_foreign_picture_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(picture(kind=kind))
    with pytest.raises(ValueError, match=r"a\.png is not a PNG file that fluxclient has saved"):
        Result.from_file(tmp_path / "a.png")


@pytest.mark.parametrize("text", ["{}", "[]", "no json"])
def test_foreign_texts_of_the_same_names_are_refused(tmp_path: Path, text: str) -> None:
    texts_of = PngImagePlugin.PngInfo()
    for name, value in {"prompt": "a", "seed": "1", "request_id": "1", "info": text}.items():
        texts_of.add_itxt(name, value)
    noise().save(tmp_path / "a.png", pnginfo=texts_of)
    with pytest.raises(ValueError, match="is not a PNG file that fluxclient has saved"):
        Result.from_file(tmp_path / "a.png")


def test_no_picture_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(OSError):
        Result.from_file(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError):
        Result.from_file(tmp_path / "b.png")
