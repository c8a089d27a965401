"""Whether a server can be used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Health:
    """What a server says of itself. True as a condition if requests can be sent."""

    live: bool
    """Somebody answers."""
    ready: bool
    """The server says that it is ready; Triton counts in every model that it was told to load, or lost."""
    model_ready: bool
    """The model is loaded."""
    detail: str = ""
    """Why not, where an error says so."""

    def __bool__(self) -> bool:
        return self.ready and self.model_ready
