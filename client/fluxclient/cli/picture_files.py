"""Pictures on their way into files: under a temporary name first, so that nobody ever finds half a picture."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from PIL import Image

from fluxclient.result import Result

PART = ".fluxclient-"
"""What temporary names begin with."""

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""What the server can send, by suffix."""

_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
_LONGEST_NAME = 100  # bytes; file systems allow 255, and a seed and a number come behind

_numbers = itertools.count()


@dataclass(frozen=True)
class Output:
    """Where the pictures of a run go."""

    folder: Path
    stem: str | None
    """Of the files, as the user said; None: each is named after its prompt and seed."""
    suffix: str
    """"" to keep the format that the server sends."""
    numbered: bool
    """Whether there are several pictures for `stem`."""

    @classmethod
    def chosen(cls, output: str, pictures: int) -> Output:
        """By the option -o: "" for the current folder, a folder, or a file. Raises BadParameter if it is neither."""
        path = Path(output)
        if not output or output.endswith(("/", os.sep)) or path.is_dir() or (pictures > 1 and not path.suffix):
            return cls(path, None, "", False)
        if path.suffix and Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
            allowed = ", ".join(FORMATS)
            problem = f"{output} has the suffix {path.suffix}; must be one of {allowed}, another of Pillow's, or none"
            raise typer.BadParameter(problem, param_hint="-o")
        return cls(path.parent, path.stem, path.suffix, pictures > 1)

    def make_folder(self) -> None:
        """Raises BadParameter if there can be no such folder."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise typer.BadParameter(f"{self.folder} cannot be a folder: {error.strerror}", param_hint="-o") from None

    def write(self, result: Result, first: int) -> list[Path]:
        """Writes the pictures of a result, which are those from number `first` of the run, and says where to.

        A name that the user gave is overwritten, one of our making never.
        """
        if self.stem is None:
            return [_write_new(result, index, self.folder) for index in range(len(result.images))]
        return [
            write_picture(
                result, index, self.folder, f"{self.stem}-{first + index}" if self.numbered else self.stem, self.suffix
            )
            for index in range(len(result.images))
        ]


def write_picture(result: Result, index: int, folder: Path, stem: str, suffix: str = "") -> Path:
    """Writes one picture of a result over whatever has its name; without a suffix, in the format that it came in."""
    suffix = suffix or _suffix(result, index)
    place = folder / f"{stem}{suffix}"
    with _written(result, index, folder, suffix) as part:
        part.replace(place)
    return place


def safe_name(text: str) -> str:
    """A file name without its suffix, made of letters, digits, `_` and `-`, that tells of the text."""
    words = re.sub(r"\W+", "-", unicodedata.normalize("NFC", text))
    return words.encode(errors="ignore")[:_LONGEST_NAME].decode(errors="ignore").strip("-") or "picture"


def _write_new(result: Result, index: int, folder: Path) -> Path:
    """Writes one picture under a name that no file has yet, whoever else writes there."""
    suffix = _suffix(result, index)
    stem = f"{safe_name(result.prompt.lower())}-{result.seeds[index]}"
    with _written(result, index, folder, suffix) as part:
        for number in itertools.count(1):
            place = folder / (f"{stem}{suffix}" if number == 1 else f"{stem}-{number}{suffix}")
            try:
                place.touch(exist_ok=False)  # ours from here on
            except FileExistsError:
                continue
            return part.replace(place)
    raise AssertionError("there is always a next number")


@contextmanager
def _written(result: Result, index: int, folder: Path, suffix: str) -> Iterator[Path]:
    """The picture under a temporary name, to be renamed."""
    part = folder / f"{PART}{os.getpid()}-{next(_numbers)}{suffix}"
    one = dataclasses.replace(
        result,
        images=result.images[index : index + 1],
        seeds=result.seeds[index : index + 1],
        files=result.files[index : index + 1],
    )
    try:
        one.save(part)
        yield part
    finally:
        part.unlink(missing_ok=True)


def _suffix(result: Result, index: int) -> str:
    return _SUFFIXES.get(result.images[index].format or "PNG", ".png")
