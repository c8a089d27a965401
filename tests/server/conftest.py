"""One real Triton with a random FLUX for most tests, and the log of every server that runs when a test fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make_checkpoint
from tests.loras import save_random_lora
from tests.server.reference import Reference
from tests.server.servers import FALLEN, LOG_LINES, RUNNING, environment, started
from tools.triton.server import TritonServer


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed:
        logs = [*FALLEN, *((server.urls.http, server.log_tail(LOG_LINES)) for server in RUNNING)]
        report.sections += [(f"log of the Triton at {url}", log) for url, log in logs]
    FALLEN.clear()
    return report


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """FLUX_ and TRITON_ variables of whoever runs the tests would go before the parameters that tests set; and the
    control keys of tests are nothing for a home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("FLUX_", "TRITON_")) and name != "TRITON_SERVER"]:
            patch.delenv(name)
        patch.setenv("TRITON_CONTROL_KEY_FOLDER", str(tmp_path_factory.mktemp("keys")))
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guidance-distilled FLUX.1, as [dev] is, with random weights."""
    return make_checkpoint(tmp_path_factory.mktemp("guided"), guided=True)


@pytest.fixture(scope="session")
def loras(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A folder with the LoRAs `one`, `two`, and `broken`."""
    folder = tmp_path_factory.mktemp("loras")
    save_random_lora(checkpoint, folder, "one", seed=1)
    save_random_lora(checkpoint, folder, "two", seed=2, rank=8, targets=("to_k", "to_v", "proj_mlp"))
    (folder / "broken.safetensors").write_bytes(b"no LoRA")
    return folder


@pytest.fixture(scope="session")
def reference(checkpoint: Path, loras: Path) -> Reference:
    return Reference(checkpoint, loras)


@pytest.fixture(scope="session")
def triton(checkpoint: Path, loras: Path) -> Iterator[TritonServer]:
    """flux and flux_unary with the random checkpoint. Shared: a test leaves it as it was."""
    with started(environment=environment(model=str(checkpoint), lora_dir=str(loras))) as server:
        yield server
