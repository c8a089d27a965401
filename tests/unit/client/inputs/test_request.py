from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fluxclient import InvalidArgument
from fluxclient.inputs.options import DATATYPES
from fluxclient.inputs.request import build_request
from tests.unit.client.fakes.answers import picture


def test_only_what_was_given_is_sent() -> None:
    request = build_request(("a cat",), {}, timeout_s=None)

    assert {name: values.tolist() for name, values in request.inputs.items()} == {
        "prompt": [[b"a cat"]],
        "base64": [[False]],
    }


def test_every_option_becomes_a_column_of_its_type() -> None:
    options: dict[str, object] = {
        "height": 64,
        "width": np.int64(128),
        "num_inference_steps": 4,
        "guidance_scale": 2,
        "seed": 2**63 - 1,
        "num_images_per_prompt": 3,
        "output_format": "webp",
        "preview_interval": 2,
        "priority": 1,
        "deadline_ms": 900,
        "lora": {"paper": 0.5},
        "negative_prompt": "",
        "true_cfg_scale": 3.5,
        "image": picture(),
        "strength": 0.5,
    }
    request = build_request(("ein Bär", "二"), options, timeout_s=5.0, progress=True)

    dtypes = {"BYTES": np.object_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}
    for name, values in request.inputs.items():
        assert values.shape == (2, 1), name
        assert values.dtype == dtypes[DATATYPES[name]], name
    sent = {name: values[:, 0].tolist() for name, values in request.inputs.items()}
    assert sent.pop("prompt") == ["ein Bär".encode(), "二".encode()]
    assert sent.pop("progress") == [True, True]
    assert sent.pop("base64") == [False, False]
    texts = {"lora": b"paper:0.5", "negative_prompt": b"", "output_format": b"webp"}
    assert {name: sent.pop(name) for name in texts} == {name: [text] * 2 for name, text in texts.items()}
    assert sent == {name: [options[name]] * 2 for name in sent}
    assert set(sent) == set(options) - set(texts)
    assert (request.deadline_ms, request.priority, request.timeout_s) == (900, 1, 5.0)


@pytest.mark.parametrize(
    ("timeout", "deadline_ms"), [(5.0, 5000), (0.0001, 1), (1.0004, 1001), (10.0**9, 2**31 - 1), (None, 0)]
)
def test_timeout_becomes_the_deadline(timeout: float | None, deadline_ms: int) -> None:
    request = build_request(("a",), {}, timeout_s=timeout)

    assert request.deadline_ms == deadline_ms
    assert ("deadline_ms" in request.inputs) is (timeout is not None)


def test_timeout_of_the_call_replaces_that_of_the_client() -> None:
    assert build_request(("a",), {"timeout": 2}, timeout_s=60.0).timeout_s == 2
    assert build_request(("a",), {"timeout": None}, timeout_s=60.0).timeout_s is None


def test_deadline_can_be_switched_off_for_the_server_alone() -> None:
    request = build_request(("a",), {"deadline_ms": 0}, timeout_s=60.0)

    assert (request.deadline_ms, request.timeout_s) == (0, 60.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height", "64"),
        ("height", 64.0),
        ("height", True),
        ("height", None),
        ("height", 2**31),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("guidance_scale", "high"),
        ("guidance_scale", False),
        ("guidance_scale", 1e300),
        ("guidance_scale", math.inf),
        ("guidance_scale", math.nan),
        ("output_format", 7),
        ("lora", "\ud800"),
        ("lora", 7),
        ("negative_prompt", None),
        ("true_cfg_scale", "high"),
        ("image", b"no picture"),
        ("strength", "0.5"),
        ("timeout", 0),
        ("timeout", -1.0),
        ("timeout", math.nan),
        ("timeout", math.inf),
        ("timeout", "soon"),
    ],
)
def test_what_no_tensor_can_hold_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build_request(("a",), {name: value}, timeout_s=60.0)
    assert caught.value.field == name


@pytest.mark.parametrize("prompts", [(), (7,), (None,), ("fine", b"bytes"), ("\udfff",)])
def test_prompts_must_be_text(prompts: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build_request(prompts, {}, timeout_s=60.0)
    assert caught.value.field == "prompt"


def test_ranges_are_left_to_the_server() -> None:
    request = build_request(("",), {"height": -7, "guidance_scale": -1e30}, timeout_s=None)

    assert request.inputs["height"].tolist() == [[-7]]
    assert request.inputs["guidance_scale"].tolist() == [[np.float32(-1e30)]]


@pytest.mark.parametrize("name", ["steps", "prompt", "base64", "progress"])
def test_unknown_option_is_a_type_error(name: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}'"):
        build_request(("a",), {name: 1}, timeout_s=60.0)


def test_each_request_has_an_id_of_its_own() -> None:
    assert len({build_request(("a",), {}, timeout_s=None).id for _ in range(100)}) == 100


def test_previews_are_asked_for_only_where_they_are_shown() -> None:
    assert "preview_interval" not in build_request(("a",), {"preview_interval": 2}, timeout_s=None).inputs
    with pytest.raises(InvalidArgument):
        build_request(("a",), {"preview_interval": "often"}, timeout_s=None)


def test_request_in_less_time_keeps_everything_else() -> None:
    first = build_request(("a", "b"), {"seed": 3}, timeout_s=60.0, progress=True)
    second = first.within(1.5)

    assert second.id != first.id
    assert (second.timeout_s, second.deadline_ms, second.inputs["deadline_ms"].tolist()) == (1.5, 1500, [[1500]] * 2)
    assert second.prompts == first.prompts
    assert {name: values.tolist() for name, values in second.inputs.items() if name != "deadline_ms"} == {
        name: values.tolist() for name, values in first.inputs.items() if name != "deadline_ms"
    }
    assert first.deadline_ms == 60_000
