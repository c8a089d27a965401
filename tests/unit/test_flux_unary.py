"""flux_unary and the socket by which it talks to flux, without a Triton around them."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluxengine.errors import ConfigError
from tests.unit import triton_stand_ins as stand_ins
from tests.unit.fluxengine.answers import PATIENCE_S, eventually
from tests.unit.triton_stand_ins import FINAL, MODULES, InferenceResponse, Tensor, TritonError, import_beside_triton

HOME = Path(__file__).parents[2] / "model_repository" / "flux_unary" / "1"
ARGUMENTS = {"model_name": "flux_unary"}
Request = partial(stand_ins.Request, once=True)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where both look for each other in this test. The path of a socket must be short."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    monkeypatch.setattr("local_wire.socket_folder", lambda: folder / "sockets")
    yield folder / "sockets"
    shutil.rmtree(folder)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Any]:
    """model.py of flux_unary."""
    path = list(sys.path)
    import_beside_triton(monkeypatch, "last_response")
    spec = importlib.util.spec_from_file_location("flux_unary", HOME / "model.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield module
    sys.path[:] = path


class Flux:
    """The end of flux: holds what it takes until it is told to answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[Any] = []
        self.images = 0
        self._news = threading.Condition()
        server = import_beside_triton(monkeypatch, "local_server")
        server.TELL_S = 0.001
        self.server = server.LocalServer("flux", self._take, lambda: self.images)

    def _take(self, request: Any) -> None:
        with self._news:
            self.taken.append(request)
            self._news.notify_all()

    def request(self, number: int = 0) -> Any:
        with self._news:
            assert self._news.wait_for(lambda: len(self.taken) > number, PATIENCE_S)
        return self.taken[number]

    def answer(self, number: int = 0) -> None:
        sender = self.request(number).get_response_sender()
        files = np.array([[b"file"]], np.object_)
        pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
        sender.send(InferenceResponse([Tensor("image", files), Tensor("pixels", pixels), Tensor("info", files)]))
        sender.send(flags=FINAL)


@pytest.fixture
def flux(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[Flux]:
    flux = Flux(monkeypatch)
    yield flux
    flux.server.close()


@pytest.fixture
def model(module: Any) -> Iterator[Any]:
    model = module.TritonPythonModel()
    model.initialize(ARGUMENTS)
    yield model
    model.finalize()


def ended(request: stand_ins.Request) -> None:
    eventually(lambda: request.sender.finals == 1, "the end of a request")


def test_a_request_goes_as_it_came_and_its_answer_is_what_was_asked_for(model: Any, flux: Flux) -> None:
    request = Request('{"timeout": 5}', ["image", "pixels"], seed=np.array([[2**62]]), base64=np.array([[True]]))
    model.execute([request])
    taken = flux.request()
    inputs = {tensor.name(): tensor.as_numpy() for tensor in taken.inputs()}
    assert (taken.request_id(), taken.parameters(), taken.timeout()) == ("id", '{"timeout": 5}', 0)
    assert inputs["prompt"].tolist() == [[b"a cat"]]
    assert (inputs["seed"].tolist(), inputs["seed"].dtype) == ([[2**62]], np.int64)
    assert (inputs["base64"].tolist(), inputs["base64"].dtype) == ([[True]], np.bool_)
    flux.answer()
    ended(request)
    (outputs,) = request.sender.sent
    assert outputs.keys() == {"image", "pixels"}
    assert outputs["image"].tolist() == [[b"file"]]
    assert outputs["pixels"].tolist() == np.arange(12).reshape(1, 2, 2, 3).tolist()
    assert request.sender.freed == []


def test_an_error_of_flux_keeps_its_words_and_its_code(model: Any, flux: Flux) -> None:
    request = Request()
    model.execute([request])
    message = "FLUX_NOT_FOUND: lora: 'x' is not here [request id]"
    flux.request().get_response_sender().send(
        InferenceResponse(error=TritonError(message, TritonError.NOT_FOUND)), flags=FINAL
    )
    ended(request)
    assert (request.sender.errors, request.sender.codes) == ([message], ["NOT_FOUND"])


def test_without_flux_there_is_an_answer_at_once_and_with_it_again_service(
    model: Any, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    orphan, served = Request(), Request()
    model.execute([orphan])
    ended(orphan)
    assert orphan.sender.errors == [
        "FLUX_UNAVAILABLE: flux: is not loaded on this server; try again later [request id]"
    ]
    assert orphan.sender.codes == ["UNAVAILABLE"]
    flux = Flux(monkeypatch)
    model.execute([served])
    flux.answer()
    ended(served)
    flux.server.close()
    assert not folder.exists(), "nothing is left behind"


def test_flux_hears_that_a_caller_left_and_that_all_have_with_the_process(module: Any, flux: Flux) -> None:
    model = module.TritonPythonModel()
    model.initialize(ARGUMENTS)
    gone, stays = Request(), Request()
    model.execute([gone, stays])
    senders = [flux.request(number).get_response_sender() for number in (0, 1)]
    gone.sender.left = True
    eventually(senders[0].is_cancelled, "the first to be cancelled")
    assert not senders[1].is_cancelled()
    model._flux.close()  # as the end of the process would
    eventually(senders[1].is_cancelled, "the other to be cancelled")
    for number in (0, 1):
        flux.answer(number)  # which nobody hears, and harms nobody
    model._flux = type("Closed", (), {"close": lambda self: None})()
    model.finalize()


def test_a_caller_that_leaves_while_its_request_is_on_its_way(model: Any, flux: Flux) -> None:
    """It is told again until there is an answer: no line knows the request at first."""
    request = Request()
    request.sender.left = True
    model.execute([request])
    eventually(flux.request().get_response_sender().is_cancelled, "it to be cancelled")
    flux.answer()
    ended(request)


def test_what_breaks_a_connection_ends_its_requests_and_another_is_made(model: Any, flux: Flux) -> None:
    request, other = Request(), Request()
    model.execute([request])
    flux.request()
    (connection,) = flux.server._connections
    rubbish = b"\0\0\0\1["
    flux.server._loop.call_soon_threadsafe(connection.writer.write, rubbish)
    ended(request)
    assert request.sender.errors[0].startswith("FLUX_UNAVAILABLE: flux: its process ended before it answered")
    eventually(lambda: bool(model._flux._lines), "a new connection")
    model.execute([other])
    flux.answer(1)
    ended(other)


def test_refused_and_quick_requests_leave_no_trace_in_the_choice(model: Any, flux: Flux) -> None:
    requests = [Request() for _ in range(20)]
    model.execute(requests)
    for number in range(20):
        flux.answer(number)
    for request in requests:
        ended(request)
    eventually(lambda: [line.in_flight for line in model._flux._lines.values()] == [0], "nothing to be in flight")


def test_callers_hear_that_the_process_of_flux_ended(model: Any, flux: Flux) -> None:
    requests = [Request() for _ in range(3)]
    model.execute(requests)
    flux.request(2)
    for connection in list(flux.server._connections):
        flux.server._loop.call_soon_threadsafe(connection.writer.transport.abort)
    for request in requests:
        ended(request)
        (error,) = request.sender.errors
        assert error.startswith("FLUX_UNAVAILABLE: flux: its process ended before it answered; send the request again")


def test_a_process_that_closes_answers_what_it_has_while_another_takes_what_comes(
    model: Any, flux: Flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Request(), Request()
    model.execute([first])
    flux.request()
    closing = threading.Thread(target=flux.server.close)
    closing.start()
    monkeypatch.setattr("os.getpid", lambda: 4_194_305)  # another process, of this number
    other = Flux(monkeypatch)
    monkeypatch.undo()
    eventually(lambda: any(line.closing for line in model._flux._lines.values()), "the first to be closing")
    model.execute([second])
    other.answer()
    ended(second)
    assert closing.is_alive() and first.sender.finals == 0
    flux.answer()
    ended(first)
    closing.join(PATIENCE_S)
    other.server.close()
    flux.server = type("Closed", (), {"close": lambda self: None})()


def test_the_process_with_the_least_in_flight_gets_the_next(
    model: Any, flux: Flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: 4_194_306)
        other = Flux(monkeypatch)
    flux.images = 5
    eventually(lambda: sorted(line.in_flight for line in model._flux._lines.values()) == [0, 5], "both to be known")
    requests = [Request() for _ in range(7)]
    model.execute(requests)
    eventually(lambda: len(flux.taken) + len(other.taken) == 7, "all to be taken")
    assert len(other.taken) >= 5, "the other has five more, as far as is known"
    for its in (flux, other):
        for number in range(len(its.taken)):
            its.answer(number)
    for request in requests:
        ended(request)
    other.server.close()


def test_a_socket_of_a_dead_process_goes(model: Any, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "flux-1.sock"))
        dead.listen()
    eventually(lambda: not list(folder.iterdir()), "the socket to go")


def test_a_folder_that_others_can_write_to_is_not_trusted(
    model: Any, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Whoever guesses its name can make it first, and put a socket of his own there."""
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="is not a folder of this user's alone: remove it"):
        Flux(monkeypatch)
    asked = Request()
    with socket.socket(socket.AF_UNIX) as planted:
        planted.bind(str(folder / "flux-1.sock"))
        planted.listen()
        model.execute([asked])
        ended(asked)
        planted.settimeout(0)
        with pytest.raises(BlockingIOError):
            planted.accept()
    assert asked.sender.errors[0].startswith("FLUX_UNAVAILABLE: flux: is not loaded")


def test_what_cannot_be_read_is_the_callers_fault(model: Any, flux: Flux) -> None:
    request = Request()
    request.parameters = lambda: b"\xff".decode()  # type: ignore[method-assign]
    model.execute([request])
    ended(request)
    (error,) = request.sender.errors
    assert error.startswith("FLUX_INVALID_ARGUMENT: parameters: must be UTF-8 text")
    assert request.sender.codes == ["INVALID_ARG"]
