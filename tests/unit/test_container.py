"""What can be held of the container without building it."""

from __future__ import annotations

import fnmatch
import importlib.metadata
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.triton.ports import choose_port

PROJECT = Path(__file__).resolve().parents[2]
DOCKERFILE = PROJECT / "Dockerfile.triton"
REQUIREMENTS = PROJECT / "requirements"


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile with its argument, comments out and continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def arguments_of(wanted: str) -> list[str]:
    return [argument for name, argument in instructions() if name == wanted]


def copies() -> list[tuple[Path, str]]:
    """Each source that is copied, with its place in the container."""
    found = []
    for argument in arguments_of("COPY"):
        *sources, target = argument.split()
        for source in sources:
            found.append((Path(source), target + Path(source).name if target.endswith("/") else target))
    return found


def requirements(name: str) -> list[str]:
    """The lines of a requirements file and of those that it includes, without comments."""
    lines: list[str] = []
    for line in (REQUIREMENTS / name).read_text().splitlines():
        line = re.sub(r"(^|\s+)#.*", "", line).strip()
        if line.startswith("-r "):
            lines += requirements(line.removeprefix("-r "))
        elif line:
            lines.append(line)
    return lines


def versions(name: str) -> dict[tuple[str, str], str]:
    """The pinned version of each requirement, by package and marker."""
    pins = {}
    for line in requirements(name):
        requirement, _, marker = line.partition(";")
        package, equals, version = requirement.partition("==")
        assert equals and re.fullmatch(r"[0-9.]+", version.strip()), f"{name}: {line} is not pinned"
        pins[package.partition("[")[0].strip(), marker.strip()] = version.strip()
    return pins


def test_the_image_is_a_named_release_of_triton() -> None:
    (image,) = arguments_of("FROM")
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", image)


def test_everything_that_is_copied_exists_and_is_sent_to_docker() -> None:
    rules = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    sent = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    for source, _ in copies():
        assert (PROJECT / source).exists(), source
        folders = [source, *source.parents]
        assert any(fnmatch.fnmatch(str(folder), rule) for folder in folders for rule in sent), source


def test_the_container_gets_the_versions_that_are_tested_here() -> None:
    container, local = versions("container.txt"), versions("local.txt")
    engine = versions("engine.txt")
    assert container.keys() - engine.keys() == {("numpy", ""), ("bitsandbytes", "")}
    assert container["numpy", ""].startswith("2.") and local["numpy", ""].startswith("1.")
    assert {key: container[key] for key in engine} == {key: local[key] for key in engine}
    old = sys.version_info < (3, 11)
    for (package, marker), version in local.items():
        if marker in ("", 'python_version < "3.11"' if old else 'python_version >= "3.11"'):
            assert importlib.metadata.version(package).partition("+")[0] == version, package


def test_pip_installs_the_lock_and_nothing_else() -> None:
    installs = [run for run in arguments_of("RUN") if "pip" in run and " install " in run]
    (command,) = [part for run in installs for part in run.split("&&") if " pip " in part]
    arguments = shlex.split(command)
    rest = arguments[arguments.index("install") + 1 :]
    lock = ["-r", "/opt/flux/requirements/container.txt", "-c", "/opt/flux/requirements/constraints.txt"]
    assert rest == ["--no-cache-dir", *lock]
    copied = {target for _, target in copies()}
    for name in ("container.txt", "engine.txt", "constraints.txt"):
        assert f"/opt/flux/requirements/{name}" in copied
    environment = [argument for argument in arguments_of("ENV") if argument.startswith("PATH=")]
    assert environment == ["PATH=/opt/flux/venv/bin:$PATH"]
    assert arguments[arguments.index("--python") + 1] == "/opt/flux/venv/bin/python"


def test_constraints_agree_with_the_direct_requirements() -> None:
    lines = requirements("constraints.txt")
    names = {line.partition("==")[0] for line in lines}
    assert len(names) > 100
    assert "numpy" not in names  # of which the container has another
    constrained = {line.partition(";")[0].strip() for line in lines}
    for (package, _), version in versions("dev.txt").items():
        assert package not in names or f"{package}=={version}" in constrained, f"make lock: {package} is {version} now"


def test_it_does_not_run_as_root_and_serves_the_documented_ports() -> None:
    names = [name for name, _ in instructions()]
    assert arguments_of("USER") == ["flux"]
    assert "RUN" not in names[names.index("USER") :]
    assert arguments_of("EXPOSE") == ["8000 8001 8002"]
    model = arguments_of("ENV")[-1].split()
    assert "TRITON_CONTROL_KEY_FOLDER=/tmp/flux-triton" in model
    assert arguments_of("ARG") == ["FLUX_MODEL=flux-tiny"] and "FLUX_MODEL=${FLUX_MODEL}" in model
    (volume,) = arguments_of("VOLUME")
    assert f"HF_HOME={volume}" in model


def test_scripts_are_in_the_image_and_can_be_run() -> None:
    places = {target: source for source, target in copies()}
    (entrypoint,) = arguments_of("ENTRYPOINT")
    (health,) = arguments_of("HEALTHCHECK")
    for command in (entrypoint, health.partition("CMD ")[2]):
        script = PROJECT / places[json.loads(command)[0]]
        assert script.stat().st_mode & 0o111 == 0o111
        subprocess.run(["bash", "-n", script], check=True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What is copied to /opt/flux, but for the model repository, which is empty."""
    image = tmp_path / "opt" / "flux"
    for source, target in copies():
        place = image / target.removeprefix("/opt/flux/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.name == "model_repository":
            place.mkdir()
        elif (PROJECT / source).is_dir():
            shutil.copytree(PROJECT / source, place)
        else:
            shutil.copy(PROJECT / source, place)
    return image


@pytest.fixture
def entrypoint(image: Path, tmp_path: Path) -> list[str]:
    """The command of the entry point, with a tritonserver that prints what it is given and ends with 3."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in {
        "tritonserver": 'printf "%s\\n" tritonserver "$@"; exit 3',
        "python3": f'exec {sys.executable} -S "$@"',  # no package of any environment
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    return ["env", "-i", f"PATH={programs}:/usr/bin:/bin", "bash", str(image / "entrypoint.sh")]


def run(command: list[str], *arguments: str, **environment: str) -> tuple[int, list[str]]:
    settings = [f"{name}={value}" for name, value in environment.items()]
    done = subprocess.run([*command[:2], *settings, *command[2:], *arguments], stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()
    return done.returncode, lines[lines.index("tritonserver") + 1 :] if "tritonserver" in lines else lines


def some_ports() -> dict[str, str]:
    names = ("TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")
    ports: list[int] = []
    for name in names:
        ports.append(choose_port("0.0.0.0", name, 0, set(ports)))
    return {name: str(port) for name, port in zip(names, ports, strict=True)}


def test_the_entry_point_starts_triton_as_make_serve_does(entrypoint: list[str], image: Path) -> None:
    ports = some_ports()
    http, grpc, metrics = ports.values()
    code, arguments = run(entrypoint, "--log-verbose=1", TRITON_CONTROL_KEY="a key", **ports)
    assert code == 3
    restricted = "model-repository,shared-memory,trace,logging:triton-control=a key"
    assert [argument for argument in arguments if not argument.startswith("--backend-config=python,shm-region")] == [
        f"--model-repository={image}/model_repository",
        "--model-control-mode=explicit",
        "--load-model=flux",
        "--load-model=flux_unary",
        "--http-address=0.0.0.0",
        f"--http-port={http}",
        "--grpc-address=0.0.0.0",
        f"--grpc-port={grpc}",
        "--metrics-address=0.0.0.0",
        f"--metrics-port={metrics}",
        "--allow-metrics=true",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=30",
        "--log-format=default",
        f"--http-restricted-api={restricted}",
        f"--grpc-restricted-protocol={restricted}",
        "--log-verbose=1",
    ]


def test_the_entry_point_takes_settings_and_makes_a_key(entrypoint: list[str], tmp_path: Path) -> None:
    settings = {"TRITON_MODELS": "flux", "TRITON_EXIT_TIMEOUT_S": "7", "TRITON_MODEL_REPOSITORY": str(tmp_path)}
    keys = set()
    for _ in range(2):
        code, arguments = run(entrypoint, TRITON_CONTROL_KEY_FOLDER=str(tmp_path / "keys"), **settings, **some_ports())
        assert code == 3
        assert [argument for argument in arguments if argument.startswith("--load-model")] == ["--load-model=flux"]
        assert "--exit-timeout-secs=7" in arguments and f"--model-repository={tmp_path}" in arguments
        (option,) = [argument for argument in arguments if argument.startswith("--http-restricted-api=")]
        keys.add(option.rpartition("=")[2])
    assert len(keys) == 2 and min(map(len, keys)) >= 32


def test_the_entry_point_runs_another_command_in_its_place(entrypoint: list[str]) -> None:
    assert run(entrypoint, "echo", "hello world") == (0, ["hello world"])


def test_the_entry_point_refuses_what_a_variable_decides(entrypoint: list[str]) -> None:
    command = [*entrypoint, "--http-port=1234"]
    done = subprocess.run(command, capture_output=True, text=True)
    problem = "--http-port of tritonserver is set by the launcher, from its own --http-port or TRITON_HTTP_PORT"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {problem}\n")


def test_a_log_that_cannot_be_written_is_told_in_one_line(entrypoint: list[str], tmp_path: Path) -> None:
    command = [*entrypoint[:3], f"TRITON_LOG_FILE={tmp_path}", *entrypoint[3:]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"error: [Errno 21] Is a directory: '{tmp_path}'\n")


@pytest.mark.parametrize(("host", "asked"), [("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2")])
def test_the_health_check_asks_where_triton_listens_and_needs_nothing_but_what_is_copied(
    host: str, asked: str, entrypoint: list[str], image: Path
) -> None:
    command = [*entrypoint[:3], f"TRITON_HOST={host}", "TRITON_HTTP_PORT=1", "bash", str(image / "healthcheck.sh")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, f"the server at {asked}:1 is not ready\n", "")
