"""fluxclient loads and unloads the model, and tells what became of a server."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxclient import (
    ConnectionFailed,
    DeadlineExceeded,
    FluxError,
    InvalidArgument,
    NotFound,
    Overloaded,
    Result,
    ServerError,
)
from tests.server.faces import EACH, IDS, Made
from tests.server.servers import environment, started, until
from tools.triton.server import TritonServer

SMALL = {"max_batch": "2", "max_in_flight": "2"}


@pytest.fixture(scope="module")
def own(checkpoint: Path) -> Iterator[TritonServer]:
    with started(environment=environment(model=str(checkpoint))) as server:
        yield server


def parameters(server: TritonServer) -> dict[str, str]:
    configured = server.api.configuration("flux")["parameters"]
    return {name: value["string_value"] for name, value in configured.items()}


@pytest.mark.parametrize("made", EACH, ids=IDS)
def test_load_with_parameters_and_overload(made: Made, own: TritonServer) -> None:
    before = parameters(own)
    client = made(own, retries=0)
    client.load(SMALL)
    assert parameters(own) == {**before, **SMALL}
    assert client.health()

    answers = client.generate_many(["a fox"] * 12, concurrency=12, num_inference_steps=50)
    assert {type(answer) for answer in answers} == {Result, Overloaded}
    patient = made(own, retries=100)
    answers = patient.generate_many(["a fox"] * 6, concurrency=6, num_inference_steps=10)
    assert {type(answer) for answer in answers} == {Result}

    client.load()
    assert parameters(own) == {**before, **SMALL}, "it is loaded, so nothing is to be done"
    client.unload()
    until(lambda: not client.health().model_ready, "the model to be gone")
    client.load()
    assert parameters(own) == before, "the file counts again"


@pytest.mark.parametrize("made", EACH, ids=IDS)
def test_why_it_does_not_load(made: Made, own: TritonServer) -> None:
    client = made(own)
    with pytest.raises(InvalidArgument, match="max_batch") as caught:
        client.load({"max_batch": "many"})
    assert caught.value.field == "model"
    assert client.generate("a fox", num_inference_steps=1).images, "what was loaded before goes on"


@pytest.mark.parametrize("made", EACH, ids=IDS)
def test_unload_and_load(made: Made, own: TritonServer) -> None:
    client = made(own)
    client.unload()
    until(lambda: not client.health().model_ready, "the model to be gone")
    assert client.health().live
    for ask in (
        lambda: client.generate("a fox"),
        lambda: client.generate(["a fox", "a bear"]),
        lambda: client.events("a fox"),
        client.statistics,
    ):
        with pytest.raises(NotFound) as caught:
            ask()
        assert caught.value.field == "model"
    client.load()
    assert client.health()
    assert client.generate("a fox", num_inference_steps=1).images


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_server_that_ends_in_the_middle(checkpoint: Path, protocol: str) -> None:
    (made,) = [made for made in EACH if str(made) == f"sync-{protocol}"]
    with started(environment=environment(model=str(checkpoint))) as server:
        client = made(server, retries=0)
        killer = threading.Timer(0.5, server.kill)
        killer.start()
        with pytest.raises(FluxError) as caught:
            client.generate("a fox", num_inference_steps=1000, height=256, width=256)
        killer.join()
        assert isinstance(caught.value, ConnectionFailed), caught.value
        with pytest.raises(ConnectionFailed) as caught:
            client.generate("a fox")
        assert caught.value.field == "connection"
        health = client.health()
        assert not health.live and "CONNECTION_FAILED" in health.detail


def test_process_of_the_model_that_dies(checkpoint: Path) -> None:
    """Triton 24.10 says nothing of it to those in flight, so what ends their waiting is their own timeout."""
    with started(environment=environment(model=str(checkpoint))) as server:
        (stub,) = [stub for stub in server.stubs() if any("/flux/1/" in argument for argument in stub.arguments)]
        killer = threading.Timer(0.5, lambda: os.kill(stub.pid, signal.SIGKILL))
        killer.start()
        with pytest.raises(DeadlineExceeded):
            EACH[0](server).generate("a fox", num_inference_steps=1000, height=256, width=256, timeout=3)
        killer.join()
        for made in EACH:
            with pytest.raises(ServerError) as caught:
                made(server, retries=0).generate("a fox", timeout=10)
            assert (caught.value.code, caught.value.field) == ("UNAVAILABLE", "model")
