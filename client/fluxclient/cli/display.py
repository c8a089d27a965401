"""What a person at a terminal sees while pictures come about; elsewhere nothing."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fluxclient.result import Preview, Result
from fluxclient.result import Progress as Step

if TYPE_CHECKING:
    from PIL.Image import Image

_PREVIEW_CELLS = 40

Renderer = Callable[["Image", int], Any]
"""Makes of a picture, and a width in cells, something that rich prints."""


class Display:
    """A bar over all requests with the time left, on standard error.

    It is live on a terminal only, and not with `quiet`; all calls do nothing where it is not. Usable once.
    """

    def __init__(self, requests: int, *, quiet: bool, preview: bool = False) -> None:
        console = Console(stderr=True)
        self.live = not quiet and sys.stderr.isatty() and not console.is_dumb_terminal
        self._renderer = _terminal_renderer() if preview and self.live else None
        self._done = 0
        self._requests = requests
        self._shares: dict[int, float] = {}
        """How much of each request in flight is done, 0 to 1."""
        self._watched: int | None = None
        """The request whose previews are shown: one at a time."""
        self._picture: Any = None
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task(self._description(), total=requests)
        self._shown: Live | None = None

    @property
    def previewing(self) -> bool:
        """Whether previews would be seen."""
        return self._renderer is not None

    def __enter__(self) -> Display:
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._hide()

    def step(self, request: int, step: Step) -> None:
        """A denoising step of a request is done."""
        self._shares[request] = step.step / step.total_steps
        if isinstance(step, Preview) and step.images[0] is not None:
            self._watch(request, step.images[0])
        self._advance(f"step {step.step} of {step.total_steps}")

    def end(self, request: int, result: Result | None = None) -> None:
        """A request has been answered, with pictures or with an error."""
        self._shares.pop(request, None)
        self._done += 1
        if self._watched == request:
            self._watched = self._picture = None
        if self._renderer and result:
            with self.paused():
                for image in result.images:
                    self._bar.console.print(self._renderer(image, self._cells()))
        self._advance(self._description())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While it lasts, the terminal is free for other output."""
        self._hide()
        try:
            yield
        finally:
            self._show()

    def _show(self) -> None:
        if not self.live:
            return
        self._shown = Live(  # a new one each time: started again, it would erase as many lines as it had before
            get_renderable=self._render,
            console=self._bar.console,
            transient=True,
            redirect_stdout=False,  # rich would send it to standard error
            redirect_stderr=False,
            auto_refresh=self._renderer is None,  # pictures flicker when they are sent again and again
            refresh_per_second=8,
        )
        self._shown.start()

    def _hide(self) -> None:
        if self._shown:
            self._shown.stop()
            self._shown = None

    def _advance(self, description: str) -> None:
        if not self.live:
            return
        shown = description if self._requests == 1 else self._description()
        self._bar.update(self._task, completed=self._done + sum(self._shares.values()), description=shown)
        if self._renderer and self._shown:
            self._shown.refresh()

    def _description(self) -> str:
        return "waiting" if self._requests == 1 else f"{self._done} of {self._requests} prompts"

    def _watch(self, request: int, image: Image) -> None:
        if self._renderer and self._watched in (None, request):
            self._watched = request
            self._picture = self._renderer(image, self._cells())

    def _cells(self) -> int:
        return min(_PREVIEW_CELLS, self._bar.console.width)

    def _render(self) -> Group:
        return Group(self._picture, self._bar) if self._picture is not None else Group(self._bar)


def _terminal_renderer() -> Renderer | None:
    """The best that this terminal can show: kitty's graphics, sixels, or coloured half cells.

    None where there is no terminal on all three standard streams, over which it is asked what it can, or one that does
    not know its own size, as serial lines do.
    """
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return None
    if 0 in os.get_terminal_size(sys.stdout.fileno()):
        return None
    # It warns, with a traceback, of each terminal that does not answer; it knows what to do then.
    logging.getLogger("textual_image").addHandler(logging.NullHandler())
    from textual_image.renderable import Image as TerminalImage  # asks the terminal when it is imported

    return lambda image, cells: TerminalImage(image, width=cells, height="auto")
