"""Everything under tests/server needs a real Triton server and carries the marker `server`."""

from __future__ import annotations

from pathlib import Path

import pytest

SERVER = Path(__file__).parent / "server"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SERVER in item.path.parents:
            item.add_marker(pytest.mark.server)
