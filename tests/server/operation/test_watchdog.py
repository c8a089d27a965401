"""The watchdog over a real Triton with a small model that echoes."""

from __future__ import annotations

import os
import signal
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.echo import ask, make_repository, wait_for
from tools.triton.server import TritonServer
from tools.triton.shared_memory import REGION, SHARED_MEMORY, process_name
from tools.triton.stub import Stub
from tools.triton.watching.watchdog import Watchdog

pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "models")


@pytest.fixture
def server(repository: Path) -> Iterator[TritonServer]:
    with TritonServer(repository, ["echo"]) as server:
        yield server


def meet(server: TritonServer, stub: Stub) -> None:
    """Kills a stub and sends requests until one has met it."""
    os.kill(stub.pid, signal.SIGKILL)
    with pytest.raises(urllib.error.HTTPError):
        for _ in range(20):
            ask(server, "?")


def test_a_dead_stub_is_noticed_and_its_model_serves_again(server: TritonServer) -> None:
    server.load("echo", parameters={"greeting": "moin"})
    assert wait_for(lambda: len(server.stubs()) == 2)  # those of the first load have gone
    stubs = server.stubs()
    with Watchdog(server, interval_s=0.1, settle_s=6.0, drain_s=2.0) as watchdog:
        meet(server, stubs[0])
        assert wait_for(lambda: watchdog.reloads == 1)
        # The other instance waits for ever to be released; then it is killed.
        assert wait_for(lambda: not any(stub.alive for stub in stubs))
        assert [ask(server, str(n)) for n in range(6)] == [f"moin {n}" for n in range(6)]
        time.sleep(1)
        assert watchdog.reloads == 1
        assert len(server.stubs()) == 2
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 15  # Triton itself would wait for its lost model until the exit timeout, 30 s


def test_unloads_and_reloads_are_no_alarm(server: TritonServer) -> None:
    with Watchdog(server, interval_s=0.05, settle_s=0.3) as watchdog:
        for greeting in ("a", "b"):
            server.load("echo", parameters={"greeting": greeting})
            server.unload("echo")
            server.load("echo")
        time.sleep(1)
        assert watchdog.reloads == 0


def test_a_model_that_is_ready_but_silent_is_loaded_anew(repository: Path) -> None:
    for file in (repository / "echo" / "config.pbtxt", repository / "echo" / "1" / "model.py"):
        file.write_text(file.read_text().replace('"text"', '"prompt"'))
    names = ("height", "width", "num_inference_steps", "priority", "deadline_ms")
    optional = [f'{{ name: "{name}" data_type: TYPE_INT32 dims: [ 1 ] optional: true }}' for name in names]
    with (repository / "echo" / "config.pbtxt").open("a") as config:
        config.write(f"input [ {', '.join(optional)} ]\n")
    with TritonServer(repository, ["echo"]) as server:
        stubs = server.stubs()
        with Watchdog(server, interval_s=0.1, drain_s=1.0, ask_s=0.2, answer_s=10.0) as watchdog:
            time.sleep(1)
            assert watchdog.reloads == 0
            for stub in stubs:
                os.kill(stub.pid, signal.SIGSTOP)
            assert server.api.ready("echo")  # though Triton itself answers each request with an error, after a second
            assert wait_for(lambda: watchdog.reloads == 1)
            assert wait_for(lambda: not any(stub.alive for stub in stubs))
        assert server.api.generate("echo", {"prompt": "again"}, 10)["echo"] == "hello again"


def regions(server: TritonServer) -> set[Path]:
    """The shared memory of its stubs."""
    names = [argument for stub in server.stubs() for argument in stub.arguments if argument.startswith(REGION)]
    return {SHARED_MEMORY / name for name in names}


def test_no_shared_memory_is_left_and_none_of_others_taken(server: TritonServer, repository: Path) -> None:
    with TritonServer(repository, ["echo"]) as other:
        first = regions(server)
        with Watchdog(server, interval_s=0.1, settle_s=6.0, drain_s=1.0) as watchdog:
            meet(server, server.stubs()[0])
            assert wait_for(lambda: watchdog.reloads == 1)
            assert wait_for(lambda: not any(region.exists() for region in first))
        second = regions(server)
        assert len(second) == 2 and all(region.exists() for region in second)
        prefix = min(second).name.rpartition("_")[0]
        folder = SHARED_MEMORY / f"flux-triton-{process_name(server.pid)}"
        folder.mkdir()
        os.kill(server.pid, signal.SIGKILL)
        assert wait_for(lambda: server.poll() is not None)
        assert server.stop() == -signal.SIGKILL
        assert not list(SHARED_MEMORY.glob(f"{prefix}*")) and not folder.exists()
        assert len(regions(other)) == 2 and all(region.exists() for region in regions(other))
        assert ask(other, "still") == "hello still"
