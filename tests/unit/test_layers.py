"""Each package imports in the directions that its table names, and no module imports itself by way of others."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.unit.imports import House
from tools.triton.installation import PROJECT

MOST_FILES = 15

LOCUST = ("locust", "gevent")
"""Locust patches the process that it is imported into."""


def floors(*rooms: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Each room may import what is on the floors before its own."""
    return {
        room: tuple(other for below in rooms[:number] for other in below)
        for number, floor in enumerate(rooms)
        for room in floor
    }


LOADTEST = House(
    PROJECT / "loadtest",
    allowed={
        "": (),
        "failures": (),
        "traffic": ("failures",),
        "sending": ("failures", "traffic"),
        "server": ("failures",),
        "lab": ("failures", "traffic", "server"),
        "reporting": ("failures", "traffic", "server", "lab"),
        "locustfile": ("sending",),
        "commands": ("failures", "lab", "reporting"),
        "perf": ("failures", "traffic", "server", "lab", "reporting"),
        "__main__": ("failures", "lab", "reporting", "commands"),
    },
    barred={room: LOCUST for room in ("failures", "traffic", "server", "lab", "reporting", "commands", "perf")},
)

TORCH = ("torch", "diffusers", "transformers", "numpy")

ENGINE = House(
    PROJECT / "model_repository" / "flux" / "1" / "fluxengine",
    allowed={
        "": (),
        "errors": (),
        "metrics": (),
        "size": (),
        "setting_values": (),
        "config": ("errors", "setting_values", "size"),
        "wire": ("config", "errors", "size"),
        "reply": ("errors", "wire"),
        "lora": ("errors",),
        "compile": ("errors", "lora", "size"),
        "families": ("compile", "errors", "lora", "size", "wire"),
        "load": ("compile", "config", "errors", "families", "wire"),
        "job": ("lora", "reply", "size", "wire"),
        "scheduler": ("job",),
        "waiting": ("errors", "job", "lora", "size", "wire"),
        "device": ("config", "errors", "families", "job", "lora", "size", "wire"),
        "info": ("job",),
        "warm_up": ("errors", "reply", "wire"),
        "engine": (
            *("config", "device", "errors", "info", "job", "metrics", "reply"),
            *("scheduler", "waiting", "warm_up", "wire"),
        ),
    },
    barred={
        **{room: ("triton_python_backend_utils",) for room in ("waiting", "device", "families", "load", "engine")},
        **{room: TORCH for room in ("errors", "metrics", "size", "config", "reply", "job", "scheduler", "warm_up")},
        "wire": ("torch", "diffusers", "transformers"),
    },
)

CLIENT = House(
    PROJECT / "client" / "fluxclient",
    allowed={
        **floors(
            ("errors",),
            ("inputs",),
            ("result", "health", "task_pool"),
            ("transport",),
            ("statistics", "retries", "in_flight", "mock_transport"),
            ("core",),
            ("client", "async_client"),
            ("gateway",),
            ("cli",),
            ("__main__",),
        ),
        "": ("async_client", "client", "errors", "health", "inputs", "mock_transport", "result", "statistics"),
    },
    barred={room: ("asyncio", "threading", "socket", "grpc", "aiohttp") for room in ("core", "retries", "inputs")},
)

GATEWAY = House(
    PROJECT / "client" / "fluxclient" / "gateway",
    allowed=floors(
        ("",),
        ("errors", "fields", "stopping", "metrics", "result_encoding"),
        ("admission", "keeping"),
        ("config", "request_record", "leaving"),
        ("state",),
        ("openai", "page", "operator_routes", "replaced_routes"),
        ("app",),
        ("server",),
    ),
    barred={},
    name="fluxclient.gateway",
)

HOUSES = (ENGINE, LOADTEST, CLIENT, GATEWAY)


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: house.folder.name)
def test_imports_go_in_one_direction(house: House) -> None:
    assert house.faults() == []


@pytest.mark.parametrize("house", HOUSES, ids=lambda house: house.folder.name)
def test_a_folder_says_what_it_is_and_stays_small(house: House) -> None:
    for file in house.folder.rglob("__init__.py"):
        assert len(list(file.parent.glob("*.py"))) <= MOST_FILES + 1, f"{file.parent}, with its __init__.py"
        assert ast.get_docstring(ast.parse(file.read_text())), f"{file} says nothing"


@pytest.mark.parametrize(
    ("above", "below", "faults"),
    [
        ("from house.below import thing", "", []),
        ("from house.below.thing import Thing", "import json", []),
        ("", "from house.above import view", ["house.below.thing imports house.above.view"]),
        ("", "from ..above import view", ["house.below.thing imports house.above.view"]),
        ("", "def late():\n    import house.above.view", ["house.below.thing imports house.above.view"]),
        ("", "if TYPE_CHECKING:\n    from house.above.view import V", ["house.below.thing imports house.above.view"]),
        ("", "from torch import nn", ["house.below.thing imports torch"]),
        ("import torch.nn", "", []),
        ("from house.above import other", "", ["a circle: house.above.other → house.above.view → house.above.other"]),
    ],
)
def test_what_is_not_allowed_is_found(tmp_path: Path, above: str, below: str, faults: list[str]) -> None:
    folder = tmp_path / "house"
    sources = {"below/thing": below, "above/view": above, "above/other": "from house.above import view"}
    for name, source in sources.items():
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(source)
    assert House(folder, {"above": ("below",), "below": ()}, {"below": ("torch",)}).faults() == faults


def test_a_room_that_no_table_names_is_found(tmp_path: Path) -> None:
    (tmp_path / "attic.py").touch()
    assert House(tmp_path, {}, {}).faults() == ["attic is in no table"]
