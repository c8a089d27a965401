"""Everything under tests/server needs a real Triton server and carries the marker `server`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests draw references in their own process while a server draws: see model.py. To be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "6000")

SERVER = Path(__file__).parent / "server"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SERVER in item.path.parents:
            item.add_marker(pytest.mark.server)
