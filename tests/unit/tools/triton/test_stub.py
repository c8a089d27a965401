"""Stub processes, found and counted in /proc."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.triton.shared_memory import REGION, SHARED_MEMORY
from tools.triton.stub import PROGRAM, Stub, expected_instances, find_stubs, living_instances


def stub(pid: int, instance: str) -> Stub:
    return Stub(pid, (PROGRAM, "/models/flux/1/model.py", f"{REGION}_x", "1048576", instance, "DEFAULT"))


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that goes by the name of a stub."""
    program = shutil.copy(shutil.which("tail") or "", tmp_path / PROGRAM)
    arguments = [program, "--follow", "/dev/null", f"--pid={os.getpid()}"]
    with subprocess.Popen(arguments, start_new_session=True) as process:
        while not any(stub.pid == process.pid for stub in find_stubs()):  # /proc has its arguments a moment later
            time.sleep(0.01)
        yield process
        process.kill()


def test_instances_are_counted_for_each_group() -> None:
    groups = [
        {"name": "flux_0", "count": 2, "gpus": []},
        {"name": "flux_1", "count": 2, "gpus": [0, 1, 2]},
        {"name": "cpu", "count": 1},
    ]
    expected = expected_instances({"backend": "python", "instance_group": groups})
    assert expected == {"flux_0": 2, "flux_1": 6, "cpu": 1}
    assert expected_instances({"backend": "onnxruntime", "instance_group": groups}) == {}


def test_a_stub_belongs_to_the_group_that_its_instance_is_named_after() -> None:
    stubs = [stub(1, "flux_0"), stub(2, "flux_0_1"), stub(3, "flux_unary_0_0"), stub(4, "flux_0_0_gpu1")]
    found = living_instances(stubs, ["flux_0", "flux_unary_0"])
    assert {group: [each.pid for each in each_found] for group, each_found in found.items()} == {
        "flux_0": [1, 2, 4],
        "flux_unary_0": [3],
    }


def test_stubs_are_found_by_their_server(process: subprocess.Popen[bytes]) -> None:
    for server_pid in (None, os.getpid(), process.pid):  # anybody's; its parent's; its process group's
        assert process.pid in [stub.pid for stub in find_stubs(server_pid)]
    assert process.pid not in [stub.pid for stub in find_stubs(os.getppid())]


def test_a_dead_stub_is_not_alive_even_before_it_is_collected(process: subprocess.Popen[bytes]) -> None:
    found = next(stub for stub in find_stubs() if stub.pid == process.pid)
    assert found.alive
    found.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not found.alive
    assert process.pid not in [stub.pid for stub in find_stubs()]


def test_a_later_process_with_the_same_id_is_left_alone(process: subprocess.Popen[bytes]) -> None:
    stranger = stub(process.pid, "flux_0")
    assert not stranger.alive
    stranger.kill()
    assert process.poll() is None


def test_killing_removes_the_shared_memory(process: subprocess.Popen[bytes]) -> None:
    region = SHARED_MEMORY / f"{REGION}_{uuid.uuid4()}"
    region.touch()
    Stub(process.pid, (PROGRAM, "model.py", region.name)).kill()
    assert not region.exists()
