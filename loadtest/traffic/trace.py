"""Traces: requests with the times at which they came, to be sent again.

A trace is a file of JSON lines, each with `at` (seconds from the trace's start) and what is asked for:

    {"at": 0.25, "prompt": "a large cat on a red background", "width": 128, "height": 128, "num_inference_steps": 8}

`name` (its class of traffic), `seed`, `guidance_scale`, `priority` and `lora` may be there too. The order of the lines
does not matter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loadtest.failures import BadInput
from loadtest.traffic.mix import HERE, check
from loadtest.traffic.order import Order, TimedOrder

_SCHEMA: dict[str, Any] = json.loads((HERE / "trace.schema.json").read_text())


def load_trace(path: str) -> list[TimedOrder]:
    """In the order of their times. Raises BadInput, which names the line and the key."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"trace {path}: cannot be read: {error}") from None
    found = [_timed(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise BadInput(f"trace {path}: is empty; must have at least one line")
    return sorted(found, key=lambda timed: timed.at_s or 0.0)


def _timed(line: str, path: str, number: int) -> TimedOrder:
    where = f"trace {path}: line {number}"
    try:
        values = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{where}: is no JSON: {error}") from None
    check(values, _SCHEMA, where)
    at_s, kind = values.pop("at"), values.pop("name", "trace")
    return TimedOrder(Order(kind, **{"seed": number, **values}), at_s)
