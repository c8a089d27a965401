"""LoRAs as callers name them, and as the server reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fluxclient.errors import InvalidArgument, shown

Loras = str | Sequence[str] | Mapping[str, float]
"""`name` or `name:scale`, several with `,` between or as a sequence; or the scale of each by its name."""

_SEPARATORS = ",:"


def lora_text(value: object) -> str:
    """Loras in one text. Raises InvalidArgument for what is none; which there are, the server knows."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return ",".join(f"{_name(name)}:{_scale(name, scale)!r}" for name, scale in value.items())
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    problem = f"is {shown(value)}; must be text, a sequence of texts, or numbers by name"
    raise InvalidArgument(problem, field="lora")


def _name(name: object) -> str:
    if not isinstance(name, str) or not name or any(sign in name for sign in _SEPARATORS):
        raise InvalidArgument(f"has the name {shown(name)}; must be text without ',' and ':'", field="lora")
    return name


def _scale(name: str, scale: object) -> float:
    if isinstance(scale, bool) or not hasattr(scale, "__float__"):
        raise InvalidArgument(f"has {shown(scale)} for {name!r}; must be a number", field="lora")
    return float(scale)
