"""Which part of the client may import which, so that each can be read alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fluxclient

ROOT = Path(fluxclient.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FOLDERS = sorted({file.parent for file in FILES})

LAYERS = (
    ("errors",),
    ("inputs",),
    ("result", "health", "task_pool"),
    ("transport",),
    ("statistics", "retries", "in_flight", "mock_transport"),
    ("core",),
    ("client", "async_client"),
    ("gateway",),
    ("cli",),
)
"""Each imports from its own folder and those above; `__init__` and `__main__` of fluxclient lead to all of it."""

OF_GATEWAY = (
    ("errors", "fields", "stopping", "metrics", "result_encoding"),
    ("admission", "keeping"),
    ("config", "request_record", "leaving"),
    ("state",),
    ("openai", "page", "operator_routes", "replaced_routes"),
    ("app",),
    ("server",),
)


def name_of(file: Path) -> str:
    """Its module, below fluxclient; "" for fluxclient itself."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in FILES}


def imported(file: Path) -> Iterator[str]:
    """All modules below fluxclient that it imports, wherever that stands in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[2] for name in node.names if name.name.startswith("fluxclient."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "fluxclient":
            module = (node.module or "").partition(".")[2]
            below = [f"{module}.{name.name}".lstrip(".") for name in node.names]
            yield from (name if name in MODULES else module for name in below)


def floor(layers: tuple[tuple[str, ...], ...], module: str) -> int:
    """The number of its layer. Raises StopIteration for one that is in none."""
    return next(number for number, names in enumerate(layers) if module.partition(".")[0] in names)


@pytest.mark.parametrize("module", [module for module in MODULES if module not in ("", "__main__")])
def test_imports_go_one_way(module: str) -> None:
    for other in imported(MODULES[module]):
        top, its = module.partition(".")[0], other.partition(".")[0]
        assert top == its or floor(LAYERS, other) < floor(LAYERS, module), f"{module} imports {other}"


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("gateway.")])
def test_so_they_do_in_the_gateway(module: str) -> None:
    inner = module.partition(".")[2]
    for other in (name.partition(".")[2] for name in imported(MODULES[module]) if name.startswith("gateway.")):
        same = inner.partition(".")[0] == other.partition(".")[0]
        assert same or floor(OF_GATEWAY, other) < floor(OF_GATEWAY, inner), f"{inner} imports {other}"


def test_no_circles() -> None:
    left = {module: set(imported(file)) - {module} for module, file in MODULES.items()}
    while free := [module for module, others in left.items() if not others & set(left)]:
        for module in free:
            del left[module]
    assert left == {}


def test_the_core_neither_waits_nor_sends() -> None:
    for module in ("core", "retries"):
        tree = ast.parse(MODULES[module].read_text())
        names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name.partition(".")[0] for name in names} & {"asyncio", "threading", "socket", "grpc", "aiohttp"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_says_what_it_is_and_stays_small(folder: Path) -> None:
    files = list(folder.glob("*.py"))
    assert len(files) <= 16, "about 15, and __init__"
    if folder != ROOT:
        assert "May import: " in (ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or "")
