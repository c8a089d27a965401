"""What a batch has done so far: one JSON line for each row that was drawn or failed, the last of an id counts.

A line is appended when its pictures are in place, so a batch that was killed at any moment can go on from it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import typer

from fluxclient.cli.batch_input import Row

MANIFEST = "manifest.jsonl"


class Manifest:
    """The manifest of a folder, as a context manager: open, and locked against other batches, inside."""

    def __init__(self, folder: Path) -> None:
        """Raises BadParameter if another batch is at work there, or what is there is no manifest."""
        self.path = folder / MANIFEST
        self.is_new = not self.path.exists()
        self._entries: dict[str, Mapping[str, Any]] = {}
        try:
            self._file = self.path.open("a+b")
        except OSError as error:
            raise typer.BadParameter(f"{self.path} cannot be written: {error.strerror}", param_hint="-o") from None
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def has(self, row: Row) -> bool:
        """Whether this very row, with the prompt and the options that it has now, has been drawn."""
        entry = self._entries.get(row.key, {})
        same = (entry.get("prompt"), entry.get("options")) == (row.prompt, row.options)
        return same and "error" not in entry

    def add(self, row: Row, outcome: Mapping[str, Any]) -> None:
        """`outcome` is what `result_values` gives, or an `error`."""
        entry = {"id": row.id, "prompt": row.prompt, "options": row.options, **outcome}
        self._file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        self._entries[row.key] = entry

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise typer.BadParameter(f"another batch is writing to {self.path}", param_hint="-o") from None

    def _read(self) -> None:
        """Reads what is there, and cuts off a last line that was never finished."""
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                entry = json.loads(line)
                self._entries[str(entry["id"])] = entry
            except (ValueError, TypeError, KeyError):
                problem = f"{self.path}, line {number}, is no line of a manifest; name another folder"
                raise typer.BadParameter(problem, param_hint="-o") from None
        if len(whole) < len(content):
            self._file.truncate(len(whole))
