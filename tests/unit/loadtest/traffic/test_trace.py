from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.failures import BadInput
from loadtest.traffic.trace import load_trace

LINE: dict[str, Any] = {"at": 0.5, "prompt": "a cat", "width": 128, "height": 128, "num_inference_steps": 8}


def written(folder: Path, *lines: dict[str, Any] | str) -> str:
    path = folder / "trace.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def test_requests_come_in_the_order_of_their_times(tmp_path: Path) -> None:
    late = {**LINE, "at": 2, "seed": 4, "name": "people", "guidance_scale": 2.0, "priority": 1, "lora": "ink"}
    early, later = load_trace(written(tmp_path, late, "", LINE))
    assert (early.at_s, early.order.kind, early.order.prompt) == (0.5, "trace", "a cat")
    assert (later.at_s, later.order.kind, later.order.seed, later.order.priority) == (2, "people", 4, 1)
    assert (early.order.lora, later.order.lora) == ("", "ink")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({**LINE, "at": -1}, "line 2: at: -1 is less than the minimum of 0; must be seconds from the trace's start"),
        ({**LINE, "width": 130}, "line 2: width: 130 is not a multiple of 16"),
        ({**LINE, "when": 3}, "line 2: .*'when' was unexpected"),
        ({"at": 1}, "line 2: .* is a required property"),
        ("{", "line 2: is no JSON"),
        ("[]", r"line 2: \[\] is not of type 'object'"),
    ],
)
def test_a_bad_line_is_refused_by_number_and_key(tmp_path: Path, line: dict[str, Any] | str, message: str) -> None:
    with pytest.raises(BadInput, match=f"trace .*trace.jsonl: {message}"):
        load_trace(written(tmp_path, LINE, line))


def test_an_empty_trace_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is empty"):
        load_trace(written(tmp_path, ""))
    with pytest.raises(BadInput, match="cannot be read"):
        load_trace(str(tmp_path / "none.jsonl"))
