"""The container's entry point and health check with the Triton of this machine in place of the image's."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.echo import make_repository
from tests.server.servers import until
from tools.triton.installation import PROJECT, find_triton
from tools.triton.ports import choose_port
from tools.triton.stub import Stub, find_stubs

AS_FIRST_PROCESS = ["unshare", "--pid", "--mount-proc", "--kill-child=KILL", "--fork"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The part of /opt/flux that starts Triton."""
    image = tmp_path / "opt" / "flux"
    shutil.copytree(PROJECT / "tools" / "triton", image / "tools" / "triton")
    for file in ("tools/__init__.py", "deploy/container/entrypoint.sh", "deploy/container/healthcheck.sh"):
        shutil.copy(PROJECT / file, image / ("tools" if file.startswith("tools") else ""))
    return image


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of the container, with what this machine's Triton needs."""
    triton = find_triton()
    program = tmp_path / "bin" / "tritonserver"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join([str(triton.executable), *triton.arguments])} "$@"\n')
    program.chmod(0o755)
    ports: list[int] = []
    for service in ("http", "grpc", "metrics"):
        ports.append(choose_port("0.0.0.0", service, 0, set(ports)))
    return triton.environment(
        {
            **os.environ,
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "TRITON_MODEL_REPOSITORY": str(make_repository(tmp_path / "models")),
            "TRITON_MODELS": "echo",
            **{f"TRITON_{name}_PORT": str(port) for name, port in zip(("HTTP", "GRPC", "METRICS"), ports, strict=True)},
            "TRITON_HOST": "127.0.0.1",
            "TRITON_CONTROL_KEY_FOLDER": str(tmp_path / "keys"),
        }
    )


@pytest.fixture(params=["as another process", "as the first process"])
def container(
    request: pytest.FixtureRequest, image: Path, environment: dict[str, str], tmp_path: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The process that the container would start; the first one of a namespace collects the orphans of all others."""
    first = request.param == "as the first process"
    if first and (os.getuid() != 0 or subprocess.run([*AS_FIRST_PROCESS, "true"], capture_output=True).returncode):
        pytest.skip("needs the right to make a namespace of processes")
    command = [*(AS_FIRST_PROCESS if first else []), str(image / "entrypoint.sh")]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        yield process
        process.kill()
        until(lambda: not stubs(tmp_path), "the guard or the kernel to end the server")


def stubs(tmp_path: Path) -> list[Stub]:
    return [stub for stub in find_stubs() if stub.arguments[1].startswith(str(tmp_path))]


def check_health(image: Path, environment: dict[str, str]) -> tuple[int, str]:
    done = subprocess.run([image / "healthcheck.sh"], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout.strip()


def family(pid: int) -> dict[int, str]:
    """The states of all processes that descend from this one."""
    found: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            except OSError:
                continue
            found[int(entry.name)] = (int(parent), state)
    ours = {pid}
    while more := {each for each, (parent, _) in found.items() if parent in ours} - ours:
        ours |= more
    return {each: found[each][1] for each in ours if each in found}


def test_serves_mends_what_dies_and_stops(
    container: subprocess.Popen[bytes], image: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    def is_well() -> bool:
        assert container.poll() is None, (tmp_path / "log").read_text(errors="replace")
        return check_health(image, environment) == (0, "well: echo")

    def says(text: str) -> bool:
        return text in (tmp_path / "log").read_text(errors="replace")

    until(is_well, "health")
    assert says("Started HTTPService"), "Triton's own log is the container's"
    (key,) = {file.read_text().strip() for file in (tmp_path / "keys").iterdir()}
    index = f"http://127.0.0.1:{environment['TRITON_HTTP_PORT']}/v2/repository/index"
    with urllib.request.urlopen(urllib.request.Request(index, b"{}", {"triton-control": key}), timeout=30) as response:
        assert response.status == 200

    os.kill(stubs(tmp_path)[0].pid, signal.SIGKILL)
    until(lambda: says("model echo serves again"), "the watchdog to load the model anew")
    until(is_well, "health")

    (server,) = [pid for pid in family(container.pid) if Path(f"/proc/{pid}/comm").read_text() == "tritonserver\n"]
    os.kill(server, signal.SIGKILL)
    until(lambda: says("tritonserver serves again"), "another server")
    until(is_well, "health")
    until(lambda: "Z" not in family(container.pid).values(), "the collection of all that died")

    is_alone = Path(f"/proc/{container.pid}/comm").read_text() != "unshare\n"
    os.kill(container.pid if is_alone else min(family(container.pid).keys() - {container.pid}), signal.SIGTERM)
    assert container.wait(timeout=60) == 0
    assert says("Stopping")
