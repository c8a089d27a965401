"""All that names the inputs of the model by hand, held equal to their one table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fluxengine.wire.inputs import INPUTS, STREAM_INPUTS
from loadtest.traffic.order import Order

ROOT = Path(__file__).parents[2]

README_ROW = re.compile(r"^\| ([\w, ]+) \| (STRING|INT32|INT64|FP32|BOOL) \| (.+) \|$", re.MULTILINE)


def names_of(model: str) -> set[str]:
    return set(INPUTS) - (STREAM_INPUTS if model == "flux_unary" else set())


@pytest.mark.parametrize("model", ["flux", "flux_unary"])
def test_config_pbtxt(model: str) -> None:
    text = (ROOT / "model_repository" / model / "config.pbtxt").read_text()
    config: Any = text_format.Parse(text, model_config_pb2.ModelConfig())
    found = {one.name: model_config_pb2.DataType.Name(one.data_type) for one in config.input}
    assert found == {name: f"TYPE_{INPUTS[name].data_type}" for name in names_of(model)}
    assert [one.name for one in config.input] == [name for name in INPUTS if name in found], "in the same order"
    assert all(list(one.dims) == [1] for one in config.input)
    assert {one.name for one in config.input if not one.optional} == {"prompt"}


def test_readme() -> None:
    rows = README_ROW.findall((ROOT / "README.md").read_text())
    found = {name: (data_type, meaning) for names, data_type, meaning in rows for name in names.split(", ")}
    assert found == {name: (described.data_type, described.meaning) for name, described in INPUTS.items()}


def test_locust() -> None:
    """Orders have some of the inputs by these names; their types come from the client's table, which is held too."""
    order = Order("all", "a fox", 64, 64, 4, 1, guidance_scale=2.0, priority=1, lora="one")
    assert order.inputs(timeout_s=1.0).keys() <= names_of("flux_unary")
