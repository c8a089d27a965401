"""fluxclient loads and unloads models, and tells what became of a server."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fluxclient import (
    ConnectionFailed,
    DeadlineExceeded,
    FluxClient,
    InvalidArgument,
    NotFound,
    Overloaded,
    Result,
    ServerError,
)
from tests.server.echo import make_repository
from tests.server.faces import EACH, IDS, Made
from tests.server.servers import Measured, environment, outliving, started, until
from tests.unit.client.fakes.faces import Face
from tools.triton.server import TritonServer

SMALL = {"max_batch": "2", "max_in_flight": "2"}
ENDLESS: dict[str, Any] = {"num_inference_steps": 1000, "height": 256, "width": 256}
ONE_OF_EACH = [made for made in EACH if str(made) in ("sync-grpc", "async-http")]
"""Both clients and both protocols, where it takes long."""


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server with a model that loads at once."""
    repository = make_repository(tmp_path_factory.mktemp("repository"))
    with started(model_repository=repository, models=("echo",)) as server:
        yield server


@pytest.fixture(scope="module")
def own(checkpoint: Path) -> Iterator[TritonServer]:
    with started(environment=environment(model=str(checkpoint))) as server:
        yield server


def parameters(server: TritonServer, model: str = "flux") -> dict[str, str]:
    configured = server.api.configuration(model)["parameters"]
    return {name: value["string_value"] for name, value in configured.items()}


def unload(client: Face, asks: list[Callable[[], object]]) -> None:
    """Unloads the model; after that, all that the client is asked for tells of it."""
    client.unload()
    until(lambda: not client.health().model_ready, "the model to be gone")
    assert client.health().live
    for ask in asks:
        with pytest.raises(NotFound) as caught:
            ask()
        assert caught.value.field == "model"


@pytest.mark.parametrize("made", EACH, ids=IDS)
def test_load_and_unload(made: Made, echo: TritonServer) -> None:
    client = made(echo, model="echo", retries=0)
    client.load({"greeting": "good morning"})
    assert parameters(echo, "echo") == {"greeting": "good morning"}
    assert client.health()
    client.load()
    assert parameters(echo, "echo") == {"greeting": "good morning"}, "it is loaded, so nothing is to be done"

    with pytest.raises(InvalidArgument, match="greeting: none is not allowed") as caught:
        client.load({"greeting": "none"})
    assert caught.value.field == "model"
    assert client.health(), "what was loaded before goes on"

    unload(client, [lambda: client.generate("a fox"), lambda: client.events("a fox"), client.statistics])
    client.load()
    assert parameters(echo, "echo") == {"greeting": "hello"}, "the file counts again"
    assert client.health()


@pytest.mark.parametrize("made", ONE_OF_EACH, ids=map(str, ONE_OF_EACH))
def test_flux_with_other_parameters_and_without_room(made: Made, own: TritonServer) -> None:
    before = parameters(own)
    client = made(own, retries=0)
    client.load(SMALL)
    assert parameters(own) == {**before, **SMALL}
    with pytest.raises(InvalidArgument, match="max_batch"):
        client.load({"max_batch": "many"})

    answers = client.generate_many(["a fox"] * 12, concurrency=12, num_inference_steps=50)
    assert {type(answer) for answer in answers} == {Result, Overloaded}
    patient = made(own, retries=100)
    answers = patient.generate_many(["a fox"] * 6, concurrency=6, num_inference_steps=10)
    assert {type(answer) for answer in answers} == {Result}

    unload(client, [lambda: client.generate("a fox")])
    own.unload("flux")  # now waited for
    # Over HTTP the façade is asked for several prompts: it is there, and tells that flux is not.
    with pytest.raises((NotFound, ServerError)) as caught:
        client.generate(["a fox", "a bear"])
    assert caught.value.code == ("UNAVAILABLE" if "http" in str(made) else "NOT_FOUND")
    client.load()
    assert parameters(own) == before, "the file counts again"
    assert client.generate("a fox", num_inference_steps=1).images


def test_server_that_ends_in_the_middle(checkpoint: Path) -> None:
    with started(models=("flux",), environment=environment(model=str(checkpoint))) as server:
        clients = [made(server, retries=0) for made in EACH]
        with ThreadPoolExecutor(len(clients)) as pool:
            asked = [pool.submit(client.generate, "a fox", **ENDLESS) for client in clients]
            until(lambda: Measured(server).total("flux_jobs_running") == len(clients), "all pictures on their way")
            server.kill()
        for answer in asked:
            assert isinstance(answer.exception(), ConnectionFailed), answer.exception()
        for client in clients:
            with pytest.raises(ConnectionFailed) as caught:
                client.generate("a fox")
            assert caught.value.field == "connection"
            health = client.health()
            assert not health.live and "CONNECTION_FAILED" in health.detail


def test_process_of_the_model_that_dies(checkpoint: Path) -> None:
    """Triton 24.10 says nothing of it to those in flight, so what ends their waiting is their own timeout."""

    def dies(server: TritonServer) -> None:
        (stub,) = [stub for stub in server.stubs() if any("/flux/1/" in argument for argument in stub.arguments)]
        with FluxClient(server.urls.grpc) as client:
            events = client.stream("a fox", timeout=3, **ENDLESS)
            next(events)
            os.kill(stub.pid, signal.SIGKILL)
            with pytest.raises(DeadlineExceeded):
                list(events)
        for made in EACH:
            with pytest.raises(ServerError) as caught:
                made(server, retries=0).generate("a fox", timeout=10)
            assert (caught.value.code, caught.value.field) == ("UNAVAILABLE", "model")
        server.kill()  # to stop it would take long: it waits for the request that nobody answers

    outliving(dies, models=("flux",), environment=environment(model=str(checkpoint)))
