"""What uv is told, and who makes the environment where uv, another Python or a GPU is missing."""

from __future__ import annotations

import http.server
import importlib.util
import json
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tools import environment
from tools.environment import (
    SetupFailed,
    find_pip,
    find_uv,
    main,
    make,
    make_by_pip,
    pip_settings,
    uv_options,
    uv_variables,
    wants_torch_for_cpus,
)
from tools.triton import interpreter

OWN_PIP = (sys.executable, "-m", "pip")
# Keeps what it is asked and told, and does nothing. Fails at what FAILS_AT names.
UV = f"""#!{sys.executable}
import json, os, sys
told = {{name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_"))}}
with open(os.environ["ASKED"], "a") as asked:
    print(json.dumps([sys.argv[1:], told]), file=asked)
sys.exit(os.environ.get("FAILS_AT", "nothing") in sys.argv)
"""


class FakeUv:
    def __init__(self, folder: Path) -> None:
        self.program = folder / "uv"
        self.program.write_text(UV)
        self.program.chmod(0o755)
        self.file = folder / "asked"

    @property
    def calls(self) -> list[tuple[list[str], dict[str, str]]]:
        """The arguments of each call, and the variables for uv that it had."""
        return [tuple(json.loads(line)) for line in self.file.read_text().splitlines()] if self.file.exists() else []


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeUv:
    """A program uv, the only one there is; pip has no settings."""
    fake = FakeUv(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ASKED", str(fake.file))
    monkeypatch.setattr(environment, "find_uv", lambda pip, scratch: str(fake.program))
    monkeypatch.setattr(environment, "pip_settings", lambda pip: {"index-url": "https://index.example/simple"})
    monkeypatch.setattr(interpreter, "wheel_problem", lambda: "")
    return fake


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders in which pip was to make an environment, which it does not here."""
    folders: list[Path] = []
    monkeypatch.setattr(environment, "make_by_pip", lambda folder, *, cpu: folders.append(folder))
    return folders


# --- what pip goes by ---


def test_settings_of_pip_come_from_its_files_and_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://global.example\nproxy = http://proxy.example:80\nno-index = false\n"
        "[install]\nindex-url = https://install.example\nfind-links =\n  /first\n  /second\n[list]\nformat = json\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.setenv("PIP_TRUSTED_HOST", "it's.example")
    for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_PROXY", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    settings = pip_settings(OWN_PIP)
    assert settings["index-url"] == "https://install.example"
    assert settings["find-links"].split() == ["/first", "/second"]
    assert settings["proxy"] == "http://proxy.example:80"
    assert settings["trusted-host"] == "it's.example"
    assert "format" not in settings
    monkeypatch.setenv("PIP_INDEX_URL", "https://variable.example")
    assert pip_settings(OWN_PIP)["index-url"] == "https://variable.example"


def test_uv_is_told_what_pip_goes_by() -> None:
    settings = {
        "index-url": "https://mirror.example/simple",
        "extra-index-url": "https://a.example https://b.example",
        "find-links": "/wheels\n/more",
        "cert": "/etc/ssl/own.crt",
        "constraint": "one.txt two.txt",
        "no-index": "on",
        "disable-pip-version-check": "1",
    }
    assert uv_variables(settings) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": "https://a.example https://b.example",
        "UV_FIND_LINKS": "/wheels,/more",
        "SSL_CERT_FILE": "/etc/ssl/own.crt",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
    assert uv_options(settings) == ["--no-index", "-c", "one.txt", "-c", "two.txt"]
    assert uv_options({"no-index": "false"}) == []


# --- torch without the libraries for GPUs ---


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The one folder of the PATH."""
    monkeypatch.setattr(environment, "NVIDIA_DRIVER", tmp_path / "nothing")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[http.server.HTTPServer]:
    """In the place of PyTorch's index: it has torch."""

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/torch/" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Index) as server:
        monkeypatch.setattr(environment, "TORCH_FOR_CPUS", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def test_without_gpu_torch_comes_from_its_own_index(
    without_gpu: Path, index: http.server.HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wants_torch_for_cpus({})
    assert capsys.readouterr().out == f"No GPU: torch comes from http://127.0.0.1:{index.server_port}\n"


def test_an_index_that_cannot_be_reached_is_told(
    without_gpu: Path, index: http.server.HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    index.shutdown()
    index.server_close()
    assert not wants_torch_for_cpus({})
    assert "cannot be reached" in capsys.readouterr().out


def test_with_a_gpu_torch_comes_with_its_libraries(
    without_gpu: Path, index: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = without_gpu / "nvidia-smi"
    tool.touch(0o755)
    assert not wants_torch_for_cpus({})
    tool.unlink()
    assert wants_torch_for_cpus({})
    monkeypatch.setattr(environment, "NVIDIA_DRIVER", without_gpu)
    assert not wants_torch_for_cpus({})


def test_where_pip_is_told_to_look_nothing_else_is_asked(
    without_gpu: Path, index: http.server.HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not wants_torch_for_cpus({"index-url": "https://name:password@mirror.example", "find-links": "/wheels"})
    assert capsys.readouterr().out == "Packages come from where pip is told to look: index-url, find-links\n"


# --- who makes it ---


def test_uv_makes_it_for_this_python(uv: FakeUv, pip: list[Path], tmp_path: Path) -> None:
    make(tmp_path / "new", keep_python=False)
    (create, _), (install, told) = uv.calls
    assert create == ["venv", "--quiet", "--clear", str(tmp_path / "new"), "--python", sys.executable]
    assert install == ["pip", "install", "--python", str(tmp_path / "new"), "pip", *environment.WANTED]
    assert told["UV_DEFAULT_INDEX"] == "https://index.example/simple" and "UV_TORCH_BACKEND" not in told
    assert pip == []


def test_an_environment_that_is_there_is_brought_up_to_date(uv: FakeUv, pip: list[Path]) -> None:
    make(Path(sys.prefix), keep_python=False)
    assert [arguments[:2] for arguments, _ in uv.calls] == [["pip", "install"]]
    assert pip == []


def test_what_uv_itself_is_told_comes_first(
    uv: FakeUv, pip: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "wants_torch_for_cpus", lambda settings: True)
    make(tmp_path / "new", keep_python=False)
    assert uv.calls[-1][1]["UV_TORCH_BACKEND"] == "cpu"
    monkeypatch.setenv("UV_TORCH_BACKEND", "cu130")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own.example")
    make(tmp_path / "new", keep_python=False)
    told = uv.calls[-1][1]
    assert (told["UV_TORCH_BACKEND"], told["UV_DEFAULT_INDEX"]) == ("cu130", "https://own.example")


@pytest.mark.parametrize("step", ["venv", "install"])
def test_pip_makes_it_where_uv_fails(
    uv: FakeUv, pip: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setenv("FAILS_AT", step)
    make(tmp_path / "new", keep_python=False)
    assert pip == [tmp_path / "new"]


def test_pip_makes_it_where_no_uv_can_be_installed(
    pip: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(Path, "with_name", lambda path, name: tmp_path / "nothing")
    assert main([str(tmp_path / "new")]) == 0
    assert pip == [tmp_path / "new"]
    assert "uv cannot be had here: pip does it" in capsys.readouterr().out


@pytest.mark.parametrize("code", [0, 1])
def test_pip_installs_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def create(folder: Path, *, clear: bool, with_pip: bool) -> None:
        assert clear and with_pip
        (folder / "bin").mkdir(parents=True)
        python = folder / "bin" / "python"
        python.write_text(f'#!/bin/sh\nfor word in "$@"; do echo "$word"; done > {tmp_path}/asked\nexit {code}\n')
        python.chmod(0o755)

    monkeypatch.setattr(venv, "create", create)
    if code:
        with pytest.raises(SetupFailed, match="pip could not install"):
            make_by_pip(tmp_path / "new", cpu=True)
    else:
        make_by_pip(tmp_path / "new", cpu=True)
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:3] == ["-m", "pip", "install"] and asked[-len(environment.WANTED) :] == [*environment.WANTED]
    assert asked[asked.index("--extra-index-url") + 1] == environment.TORCH_FOR_CPUS


def test_a_python_without_pip_and_ensurepip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "ensurepip")

    monkeypatch.setattr(venv, "create", fail)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_pip(tmp_path / "pip") == []
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_uv([], tmp_path / "uv") is None
    with pytest.raises(SetupFailed, match=r"python3-venv.* or uv"):
        make_by_pip(tmp_path / "new", cpu=False)


def test_uv_beside_the_python_or_on_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "path"
    path.mkdir()
    (path / "uv").touch(0o755)
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert find_uv(OWN_PIP, tmp_path / "scratch") == str(path / "uv")
    (tmp_path / "uv").touch(0o755)
    assert find_uv(OWN_PIP, tmp_path / "scratch") == str(tmp_path / "uv")


# --- a Python that numpy must be compiled for ---


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "wheel_problem", lambda: "numpy has no wheel")


def test_another_python_is_fetched_rather_than_numpy_compiled(
    uv: FakeUv, compiling: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "new", keep_python=False)
    create, install = (arguments for arguments, _ in uv.calls)
    assert create[-3:] == ["--python", environment.PYTHON_WITH_WHEELS, "--managed-python"]
    assert install[:2] == ["pip", "install"]
    assert "numpy has no wheel: uv has brought a Python 3.12" in capsys.readouterr().out


def test_where_none_can_be_fetched_numpy_is_compiled(
    uv: FakeUv, compiling: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAILS_AT", "--managed-python")
    make(tmp_path / "new", keep_python=False)
    assert [arguments[-1] for arguments, _ in uv.calls[:2]] == ["--managed-python", sys.executable]
    assert "numpy has no wheel: it is compiled" in capsys.readouterr().out


def test_a_python_that_was_chosen_is_kept(uv: FakeUv, compiling: None, tmp_path: Path) -> None:
    main([str(tmp_path / "new"), "--keep-python"])
    assert [arguments[-1] for arguments, _ in uv.calls[:1]] == [sys.executable]
    assert not any("--managed-python" in arguments for arguments, _ in uv.calls)
