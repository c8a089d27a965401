"""Where pictures go, and the names of their files."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fluxclient.cli.app import main
from fluxclient.cli.picture_files import safe_name
from tests.unit.client.fakes.command import HEIGHT_MESSAGE, names, refuse, type_in
from tests.unit.client.fakes.grpc_server import WireServer


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a cat", "a-cat"),
        ("  A cat, on: /a mat/… ", "A-cat-on-a-mat"),
        ("../../etc/passwd", "etc-passwd"),
        ("-rf *", "rf"),
        ("drei Äpfel", "drei-Äpfel"),
        ("リンゴ", "リンゴ"),
        ("…", "picture"),
        ("", "picture"),
        ("a\0b\nc\ud800d", "a-b-c-d"),
        ("x" * 500, "x" * 100),
    ],
)
def test_safe_name(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_long_names_end_at_a_character() -> None:
    name = safe_name("ä" * 99 + "b" + "字" * 99)
    assert len(name.encode()) <= 100 and set(name) == {"ä"}


def test_names_come_from_prompt_and_seed_and_are_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "A cat, on: /a mat/…", "-n", "2", "--seed", "7"]) == 0

    assert names(here) == ["a-cat-on-a-mat-7.png", "a-cat-on-a-mat-8.png"]
    told = capsys.readouterr()
    assert (told.out.split(), told.err) == (names(here), "")


def test_names_of_our_making_overwrite_nothing(here: Path) -> None:
    (here / "a-cat-7.png").write_text("not ours")
    for _ in range(2):
        assert main(["generate", "a cat"]) == 0

    assert names(here) == ["a-cat-7-2.png", "a-cat-7-3.png", "a-cat-7.png"]
    assert (here / "a-cat-7.png").read_text() == "not ours"


def test_same_prompt_many_times_at_once(here: Path) -> None:
    (here / "in.txt").write_text("a cat\n" * 20)
    assert main(["generate", "@in.txt", "--concurrency", "20", "-o", "out/"]) == 0
    assert len(names(here / "out")) == 20


def test_file_that_the_user_names_is_overwritten(here: Path) -> None:
    (here / "cat.png").write_text("old")
    assert main(["generate", "a cat", "-o", "cat.png"]) == 0
    assert names(here) == ["cat.png"]
    assert Image.open(here / "cat.png").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("output", "images", "places"),
    [
        ("new/deep/", 1, ["new/deep/a-cat-7.png"]),
        ("new/deep/cat.png", 1, ["new/deep/cat.png"]),
        ("cat", 1, ["cat.png"]),
        ("cats", 2, ["cats/a-cat-7.png", "cats/a-cat-8.png"]),
        ("cats.png", 2, ["cats-0.png", "cats-1.png"]),
        (".", 1, ["a-cat-7.png"]),
    ],
)
def test_places(here: Path, output: str, images: int, places: list[str]) -> None:
    assert main(["generate", "a cat", "-n", str(images), "-o", output]) == 0
    assert names(here) == places


def test_numbers_go_over_all_prompts(server: WireServer, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(b"one\ntwo\nthree\n", monkeypatch)
    server.behaviour = refuse({"two": HEIGHT_MESSAGE})
    main(["generate", "-", "-n", "2", "-o", "out.png"])
    assert names(here) == ["out-0.png", "out-1.png", "out-4.png", "out-5.png"]


def test_folder_that_cannot_be(here: Path, server: WireServer, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").touch()
    assert main(["generate", "a cat", "-o", "file/folder/"]) == 2
    assert "file/folder cannot be a folder" in capsys.readouterr().err
    assert server.requests == []


def test_nothing_is_left_of_a_picture_that_cannot_be_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "owl-0.png").mkdir()
    assert main(["generate", "an owl", "-n", "2", "-o", "owl.png"]) == 1
    assert "owl-0.png" in capsys.readouterr().err
    assert names(here) == []
