"""The input of a batch: JSON lines, checked as far as that is possible without the server."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fluxclient.cli.picture_files import safe_name
from fluxclient.errors import InvalidArgument
from fluxclient.inputs.options import Options
from fluxclient.inputs.request import build_request

_OTHER_KEYS = ("id", "prompt")
_HASH_DIGITS = 8


@dataclass(frozen=True)
class Row:
    """One line of the input."""

    line: int
    id: str | int
    prompt: str
    options: Mapping[str, Any]
    """As they are in the line, so that they can be compared with those of a manifest."""

    @property
    def key(self) -> str:
        """What is unique: 7 and "7" are one id."""
        return str(self.id)

    @property
    def pictures(self) -> int:
        return int(self.options.get("num_images_per_prompt", 1))


class BadRows(Exception):
    """What is wrong with the input: one problem for each bad line, naming it."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_rows(text: str) -> list[Row]:
    """The rows of a file of JSON lines; blank lines are none. Raises BadRows, which names all bad lines."""
    rows: list[Row] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(): JSON may hold other line separators
        if not line.strip():
            continue
        try:
            row = _read_row(number, line)
            if row.key in lines:
                raise ValueError(f"id: {row.id!r} is that of line {lines[row.key]} too; must be unique")
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        lines[row.key] = number
        rows.append(row)
    if problems:
        raise BadRows(problems)
    return rows


def file_stems(rows: list[Row]) -> dict[str, list[str]]:
    """By the key of each row, the names of its pictures without suffix: the id, and a number for several.

    An id that is no file name, or whose names another row has too (also if only case tells them apart), is made one
    with a part of its hash: names must not depend on the order of rows, which may be edited between runs.
    """
    stems = {row.key: _stems(row.key, row.pictures) for row in rows}
    uses = Counter(stem.casefold() for names in stems.values() for stem in names)
    for row in rows:
        name = safe_name(row.key)
        if name != row.key or any(uses[stem.casefold()] > 1 for stem in stems[row.key]):
            digest = hashlib.sha256(row.key.encode()).hexdigest()[:_HASH_DIGITS]
            stems[row.key] = _stems(f"{name}_{digest}", row.pictures)
    return stems


def _stems(name: str, pictures: int) -> list[str]:
    return [name] if pictures == 1 else [f"{name}-{index}" for index in range(pictures)]


def _read_row(number: int, line: str) -> Row:
    """Raises ValueError."""
    try:
        values = json.loads(line, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(values, dict):
        raise ValueError(f"is {line.strip()[:40]!r}; must be a JSON object")
    allowed = (*_OTHER_KEYS, *Options.__annotations__)
    if unknown := [key for key in values if key not in allowed]:
        raise ValueError(f"{unknown[0]!r} is an unknown key; must be one of {', '.join(allowed)}")
    options = {key: value for key, value in values.items() if key not in _OTHER_KEYS}
    row = Row(number, _read_id(values.get("id", number)), values.get("prompt", ""), options)
    if row.prompt == "":
        raise ValueError("prompt: is missing or empty; must be 1 to 4,096 characters")
    try:
        build_request((row.prompt,), options, timeout_s=None)
    except InvalidArgument as error:
        raise ValueError(f"{error.field}: {error.text}") from None
    if row.pictures < 1:
        raise ValueError(f"num_images_per_prompt: is {row.pictures}; must be at least 1")
    return row


def _read_id(value: object) -> str | int:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"id: is {json.dumps(value)}; must be text or an integer")
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise ValueError(f"id: {value!r} cannot be written as UTF-8") from None
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"is not JSON: {name} is no number there")
