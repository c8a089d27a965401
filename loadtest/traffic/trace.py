"""Traces: requests with the times at which they came, to be sent again.

A trace is a file of JSON lines, each with `at` (seconds from the trace's start) and what is asked for:

    {"at": 0.25, "prompt": "a large cat on a red background", "width": 128, "height": 128, "num_inference_steps": 8}

`name` (its class of traffic), `seed`, `guidance_scale`, `priority` and `lora` may be there too. The order of the lines
does not matter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.traffic.mix import HERE, MixError, check
from loadtest.traffic.order import Order

_SCHEMA: dict[str, Any] = json.loads((HERE / "trace.schema.json").read_text())


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request and when it comes."""

    at_s: float
    """From the start of the test."""
    order: Order


def load_trace(path: str) -> list[Arrival]:
    """The requests in the order of their times. Raises MixError, which names the line and the key."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MixError(f"trace {path}: cannot be read: {error}") from None
    found = [_arrival(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise MixError(f"trace {path}: is empty; must have at least one line")
    return sorted(found, key=lambda arrival: arrival.at_s)


def _arrival(line: str, path: str, number: int) -> Arrival:
    where = f"trace {path}: line {number}"
    try:
        values = json.loads(line)
    except ValueError as error:
        raise MixError(f"{where}: is no JSON: {error}") from None
    check(values, _SCHEMA, where)
    order = Order(
        kind=values.get("name", "trace"),
        prompt=values["prompt"],
        width=values["width"],
        height=values["height"],
        num_inference_steps=values["num_inference_steps"],
        seed=values.get("seed", number),
        guidance_scale=values.get("guidance_scale"),
        priority=values.get("priority", 0),
        lora=values.get("lora", ""),
    )
    return Arrival(values["at"], order)
