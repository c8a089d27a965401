"""Everything under tests/server needs a real Triton server and carries the marker `server`."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

# Tests draw references in their own process while a server draws: see model.py. To be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "6000")

TESTS = Path(__file__).parent
SERVER = TESTS / "server"
PROCESSOR = TESTS / "processor"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cpu-bfloat16",
        choices=("yes", "no"),
        help="what torch says of this processor to the tests and to all that they start (default: the truth)",
    )
    parser.addoption("--slow", choices=("yes", "no", "only"), default="yes", help="whether tests marked slow are run")


def pytest_configure(config: pytest.Config) -> None:
    for name in list(os.environ):
        # Settings of whoever runs the tests would go before those that tests make, and no proxy knows this machine.
        if name.startswith(("FLUX_", "FLUXCLIENT_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    native = config.getoption("--cpu-bfloat16")
    if native is not None:
        os.environ["TESTS_CPU_BFLOAT16"] = native
        os.environ["PYTHONPATH"] = os.pathsep.join([str(PROCESSOR), *filter(None, [os.environ.get("PYTHONPATH")])])
        importlib.import_module("tests.processor.sitecustomize")  # for this process, which has started already


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if SERVER in item.path.parents:
            item.add_marker(pytest.mark.server)
    wanted = config.getoption("--slow")
    if wanted != "yes":
        slow = [item for item in items if item.get_closest_marker("slow")]
        quick = [item for item in items if not item.get_closest_marker("slow")]
        items[:], others = (slow, quick) if wanted == "only" else (quick, slow)
        config.hook.pytest_deselected(items=others)
