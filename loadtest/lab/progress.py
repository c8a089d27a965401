"""What a person sees on standard error while the lab measures: a bar on a terminal, elsewhere lines."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """As a context manager. One task at a time: `begin`, `advance` while it goes on, `end` with what came of it."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, text: str, total: int | None = None) -> None:
        self._bar.reset(self._task, description=text, total=total)

    def advance(self, done: int) -> None:
        self._bar.update(self._task, completed=done)

    def end(self, text: str) -> None:
        """A line that stays."""
        if self._live:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)
