from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadtest.failures import BadInput
from loadtest.server.strategies import AS_FOUND, STRATEGIES, choose

CONFIGURATION: dict[str, Any] = {
    "name": "flux",
    "instance_group": [{"name": "flux", "count": 1, "kind": "KIND_CPU"}],
    "parameters": {"model": {"string_value": "flux-tiny"}, "scheduling": {"string_value": "continuous"}},
}
SMALL = {"name": "small", "description": "small batches", "parameters": {"max_batch": "4"}, "instances": 3}


def test_all_are_those_of_the_contract() -> None:
    chosen = choose(["all"], None, instances=2)
    assert [(one.name, one.parameters["scheduling"], one.instances) for one in chosen] == [
        ("baseline", "serial", 1),
        ("model_pool", "serial", 2),
        ("batch", "static", 1),
        ("async", "continuous", 1),
    ]


def test_a_strategy_changes_what_it_names_and_leaves_the_rest() -> None:
    (pool,) = choose(["model_pool"], None, instances=3)
    changed = pool.configuration(CONFIGURATION)
    assert changed["parameters"] == {"model": {"string_value": "flux-tiny"}, "scheduling": {"string_value": "serial"}}
    assert changed["instance_group"][0]["count"] == 3
    assert CONFIGURATION["instance_group"][0]["count"] == 1
    assert pool.is_set(changed)
    assert not pool.is_set(CONFIGURATION)
    assert STRATEGIES["async"].is_set(CONFIGURATION)
    assert AS_FOUND.is_set(changed)


def test_a_file_declares_more(tmp_path: Path) -> None:
    file = tmp_path / "strategies.json"
    file.write_text(json.dumps(SMALL))
    baseline, small = choose(["baseline", "custom:small", "baseline"], file, instances=2)
    assert (baseline.name, small.name, small.instances) == ("baseline", "small", 3)
    assert small.parameters == {"max_batch": "4"}
    assert len(choose(["all"], file, instances=2)) == len(STRATEGIES) + 1


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"name": ""}, "name is ''; must be a text"),
        ({"name": "batch"}, "name is 'batch', which the lab has already"),
        ({"parameters": {"max_batch": 4}}, "parameters is {'max_batch': 4}; must be an object of texts"),
        ({"instances": 0}, "instances is 0; must be an integer of at least 1"),
        ({"instances": True}, "instances is True; must be"),
        ({"paramters": {}}, "'paramters' is unknown; allowed are name, description, parameters, instances"),
    ],
)
def test_a_wrong_declaration_is_named(changed: dict[str, Any], problem: str, tmp_path: Path) -> None:
    file = tmp_path / "strategies.json"
    file.write_text(json.dumps({**SMALL, **changed}))
    with pytest.raises(BadInput) as raised:
        choose(["custom:small"], file, instances=2)
    assert problem in str(raised.value)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("names", "content", "problem"),
    [
        (["fast"], None, "'fast' is unknown; there are baseline, model_pool, batch, async, all"),
        (["custom:fast"], None, "'custom:fast' needs --strategy-file"),
        (["custom:fast"], json.dumps(SMALL), "there are baseline, model_pool, batch, async, custom:small, all"),
        (["custom:fast"], "{", "is not JSON"),
        (["custom:fast"], "[1]", "1 must be an object"),
    ],
)
def test_a_wrong_name_or_file_is_told(names: list[str], content: str | None, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "strategies.json" if content is not None else None
    if file is not None and content is not None:
        file.write_text(content)
    with pytest.raises(BadInput) as raised:
        choose(names, file, instances=2)
    assert problem in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        choose(["custom:x"], tmp_path / "none.json", instances=2)
