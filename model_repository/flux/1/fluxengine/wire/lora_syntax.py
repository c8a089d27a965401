"""The text of the input `lora`: `name` or `name:scale`, several with commas."""

from __future__ import annotations

import math

from fluxengine.errors import InvalidArgument

MAX_SCALE = 10.0


def parse_loras(text: str, where: str) -> tuple[tuple[str, float], ...]:
    """Names and scales. `where` begins what is said of the text. Raises InvalidArgument."""
    found: dict[str, float] = {}
    for part in text.split(",") if text.strip() else ():
        name, colon, number = (piece.strip() for piece in part.partition(":"))
        try:
            scale = float(number) if colon else 1.0
        except ValueError:
            scale = math.nan
        if not name or not -MAX_SCALE <= scale <= MAX_SCALE:
            raise InvalidArgument(
                "lora",
                f"{where}has {part[:80]!r}; must be name or name:scale, several with commas, "
                f"each scale a number from {-MAX_SCALE:g} to {MAX_SCALE:g}",
            )
        if name in found:
            raise InvalidArgument("lora", f"{where}names {name[:80]!r} twice")
        found[name] = scale
    return tuple(found.items())
