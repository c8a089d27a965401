"""What flux_unary decides by itself, without a Triton around it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
NEVER_S = 1e9


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    spec = importlib.util.spec_from_file_location(
        "flux_unary", PROJECT / "model_repository" / "flux_unary" / "1" / "model.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Sender:
    def __init__(self) -> None:
        self.sent: list[object] = []
        self.looks = 0
        self.left = False

    def send(self, response: object, flags: int) -> None:
        self.sent.append(response)

    def is_cancelled(self) -> bool:
        self.looks += 1
        return self.left


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_process_has_ended_once_its_answers_have_been_read(
    module: Any, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = module.Processes()
    monkeypatch.setattr(module, "ANSWERED_S", -1.0)
    processes.add(process.pid)
    processes.add(process.pid)
    processes.look()
    assert not processes.ended(process.pid)
    process.kill()
    process.wait()
    processes.look()
    assert processes.ended(process.pid)
    monkeypatch.setattr(module, "ANSWERED_S", NEVER_S)
    assert not processes.ended(process.pid)


def test_a_process_that_ended_before_it_was_watched_is_known_to_have_ended(
    module: Any, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    process.kill()
    process.wait()
    processes = module.Processes()
    processes.add(process.pid)
    monkeypatch.setattr(module, "ANSWERED_S", -1.0)
    assert processes.ended(process.pid)


@pytest.mark.parametrize("error", [PermissionError("forbidden"), AttributeError("pidfd_open")])
def test_a_process_that_cannot_be_watched_never_ends_and_is_warned_of_once(
    module: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(pid: int) -> int:
        raise error

    monkeypatch.setattr(module.os, "pidfd_open", fails)
    processes = module.Processes()
    processes.add(1)
    processes.add(1)
    processes.look()
    assert not processes.ended(1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_one_answer_whoever_comes_second(module: Any) -> None:
    model, caller = module.TritonPythonModel(), module.Caller(Sender(), "id")
    model._room, model._callers = threading.BoundedSemaphore(1), {caller}
    assert model._room.acquire(blocking=False)
    model._answer(caller, "first")
    model._answer(caller, "second")
    assert caller._sender.sent == ["first"]
    assert model._callers == set()
    assert model._room.acquire(blocking=False)
    assert not caller.look(), "a sender that has sent its last response must not be asked"
    assert caller._sender.looks == 0


def test_an_answer_that_cannot_be_sent_keeps_no_place_and_ends_no_thread(
    module: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, caller = module.TritonPythonModel(), module.Caller(Sender(), "id")
    model._room, model._callers = threading.BoundedSemaphore(1), {caller}
    model._room.acquire()
    monkeypatch.delattr(Sender, "send")
    model._answer(caller, "answer")
    assert model._callers == set()
    assert model._room.acquire(blocking=False)
    assert "request id could not be answered" in caplog.text


def test_flux_is_told_once_that_a_caller_left(module: Any, tmp_path: Path) -> None:
    caller = module.Caller(Sender(), "id")
    assert caller.look() and not list(tmp_path.iterdir())
    caller._sender.left = True
    assert caller.look()
    assert [file.name for file in tmp_path.iterdir()] == [f"flux-cancel-{caller.token}"]
    assert not caller.look(), "what is known needs no asking"
    assert caller._sender.looks == 2
    assert caller.close() and not list(tmp_path.iterdir())


def test_a_disk_that_cannot_be_written_harms_nobody(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    caller = module.Caller(Sender(), "id")
    caller._sender.left = True
    assert caller.look()
    assert caller.close()
    assert "flux cannot be told whether the caller of id left" in caplog.text
