"""Which Triton is found, what is said where none can run, and how the wheel's is put together."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tools.triton import installation, interpreter
from tools.triton.errors import TritonNotFound
from tools.triton.installation import find_triton, from_wheel

ASSEMBLE = "import sys; from tools.triton.installation import *; print(from_wheel(Path(sys.argv[1])).executable)"


def make_program(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def without_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRITON_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(installation, "INSTALLED", tmp_path / "nothing" / "tritonserver")


def test_an_installed_server_comes_before_the_wheel(
    without_installed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed = make_program(tmp_path / "opt" / "tritonserver")
    monkeypatch.setattr(installation, "INSTALLED", installed)
    assert find_triton(tmp_path / "cache").executable == installed
    on_path = make_program(tmp_path / "bin" / "tritonserver")
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_triton(tmp_path / "cache").executable == on_path
    named = make_program(tmp_path / "named" / "server")
    monkeypatch.setenv("TRITON_SERVER", str(named))
    found = find_triton(tmp_path / "cache")
    assert found.executable == named
    assert found.environment({"PATH": "/bin"}) == {"PATH": "/bin"}
    assert not (tmp_path / "cache").exists()


def test_a_named_server_that_cannot_be_run_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_SERVER", str(tmp_path))
    with pytest.raises(TritonNotFound, match="TRITON_SERVER="):
        find_triton(tmp_path / "cache")


def test_the_wheel_is_put_together_once(without_installed: None, tmp_path: Path) -> None:
    first = find_triton(tmp_path)
    assert first.executable.is_relative_to(tmp_path)
    stamp = first.executable.stat().st_ino
    again = find_triton(tmp_path)
    assert again == first and again.executable.stat().st_ino == stamp
    stub = tmp_path / first.executable.parents[1] / "backends" / "python" / installation.STUB
    assert os.access(first.executable, os.X_OK) and os.access(stub, os.X_OK)
    environment = first.environment({"PATH": "/bin"})
    assert environment["PATH"] == f"{sys.prefix}/bin:/bin"
    assert environment["LD_LIBRARY_PATH"].split(":")[0].endswith("nvidia_pytriton.libs")


def test_processes_that_assemble_at_once_do_not_break_each_other(tmp_path: Path) -> None:
    def assemble(_: int) -> str:
        return subprocess.check_output([sys.executable, "-c", ASSEMBLE, str(tmp_path)], text=True).strip()

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(assemble, range(4)))
    assert len(found) == 1 and os.access(found.pop(), os.X_OK)
    assert len(list(tmp_path.iterdir())) == 1  # no drafts left


def test_an_assembly_that_breaks_off_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "copyfile", break_off)
        from_wheel(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert os.access(from_wheel(tmp_path).executable, os.X_OK)


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(TritonNotFound, match=r"cannot be put together in .*cache: .*Not a directory|File exists"):
        from_wheel(tmp_path / "cache")


def test_numpy_2_is_refused_for_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.4.6" if name == "numpy" else real(name))
    with pytest.raises(TritonNotFound, match=r"numpy 2\.4\.6 .*pip install 'numpy<2'"):
        from_wheel(tmp_path)


def test_a_missing_wheel_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TritonNotFound, match=r"requirements/local\.txt"):
        from_wheel(tmp_path)


def test_a_python_without_a_stub_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pytriton" / "tritonserver" / "python_backend_stubs" / "3.8").mkdir(parents=True)
    spec = importlib.util.spec_from_loader("pytriton", loader=None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path / "pytriton")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(TritonNotFound, match=rf"no Python backend for Python 3\.{sys.version_info.minor};"):
        from_wheel(tmp_path / "cache")


def test_a_python_without_shared_libpython_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "libpython", lambda: "")
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    with pytest.raises(TritonNotFound, match=r"without a shared libpython3\.12\.so.*--enable-shared"):
        from_wheel(tmp_path)
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert interpreter.python_problem() == ""  # the wheel has its own libpython3.13
    assert "numpy 1.26 has no wheel" in interpreter.wheel_problem()


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "riscv64")])
def test_a_platform_without_wheel_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(TritonNotFound, match=f"this is {system} on {machine}.*container"):
        from_wheel(tmp_path)


@pytest.mark.parametrize("libc", ["glibc 2.31", None])
def test_an_old_or_other_c_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, libc: str | None) -> None:
    monkeypatch.setattr(os, "confstr", lambda name: libc)
    with pytest.raises(TritonNotFound, match=r"glibc 2\.35 or newer"):
        from_wheel(tmp_path)


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 14, 0)])
def test_other_versions_of_python_are_refused(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert "CPython 3.10 to 3.13" in interpreter.python_problem()


def test_the_check_runs_as_a_script_without_any_package() -> None:
    done = subprocess.run([sys.executable, "-I", "-S", interpreter.__file__], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
