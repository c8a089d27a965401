"""What a caller is told of a request, and where that goes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from fluxengine.errors import FluxError

if TYPE_CHECKING:
    from fluxengine.wire.picture_files import Picture


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a request stands after a step. One entry for each row; previews one for each image, row by row."""

    steps: tuple[int, ...]
    totals: tuple[int, ...]
    previews: tuple[Picture | None, ...]

    def after(self, unsent: Progress) -> Progress:
        """This in the place of earlier progress, whose previews are worth seeing as long as there are no newer ones."""
        return (
            self if any(preview is not None for preview in self.previews) else replace(self, previews=unsent.previews)
        )


@dataclass(frozen=True, slots=True)
class Completed:
    """All images of a request and their seeds, row by row, and what the caller may want to know of each row."""

    pictures: tuple[Picture, ...]
    seeds: tuple[int, ...]
    infos: tuple[dict[str, object], ...]


class Reply(Protocol):
    """Where the answer goes: any number of `progress`, then exactly one of the other two. None of them may block."""

    def progress(self, progress: Progress) -> None: ...

    def done(self, completed: Completed) -> None: ...

    def error(self, error: FluxError) -> None: ...
