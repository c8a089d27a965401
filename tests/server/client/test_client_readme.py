"""Every block of Python in the client's README runs, one after the other, against the model that ships."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fluxclient import FluxClient, Result
from tests.server.servers import started
from tools.triton.installation import PROJECT

README = PROJECT / "client" / "README.md"


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, Any] = {}
    with started() as server:
        for block in blocks:
            here = block.replace(
                '"grpc://localhost:8001"', f'"{server.urls.grpc}", metrics_url="{server.urls.metrics}"'
            )
            exec(compile(here.replace("http://localhost:8000", server.urls.http), README.name, "exec"), names)
        for client in [value for value in names.values() if isinstance(value, FluxClient)]:
            client.close()

    assert {"apple.png", "preview-2.png", "star.png"} <= {file.name for file in tmp_path.iterdir()}
    assert isinstance(names["again"], Result)
    assert names["again"].seeds == names["saved"].seeds == (7,)
    assert "triton 2.51.0" in capsys.readouterr().out
