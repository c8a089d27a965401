"""What is for the operator alone: refused without the control key, over HTTP and gRPC, and allowed with it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from fluxclient import FluxClient, ServerError
from tests.server.echo import ask, make_repository
from tests.server.servers import grpc, started
from tools.triton import health
from tools.triton.control_key import key_file
from tools.triton.errors import ServerFailed
from tools.triton.server import TritonServer

HTTP = {
    "index": ("POST", "/v2/repository/index"),
    "load": ("POST", "/v2/repository/models/echo/load"),
    "unload": ("POST", "/v2/repository/models/other/unload"),
    "system shared memory": ("GET", "/v2/systemsharedmemory/status"),
    "CUDA shared memory": ("GET", "/v2/cudasharedmemory/status"),
    "unregister system shared memory": ("POST", "/v2/systemsharedmemory/region/none/unregister"),
    "unregister CUDA shared memory": ("POST", "/v2/cudasharedmemory/region/none/unregister"),
    "trace settings": ("GET", "/v2/trace/setting"),
    "a model's trace settings": ("GET", "/v2/models/echo/trace/setting"),
    "log settings": ("GET", "/v2/logging"),
    "changing log settings": ("POST", "/v2/logging"),
}
GRPC: dict[str, Callable[[InferenceServerClient, Any], object]] = {
    "index": lambda client, headers: client.get_model_repository_index(headers=headers),
    "load": lambda client, headers: client.load_model("echo", headers=headers),
    "unload": lambda client, headers: client.unload_model("other", headers=headers),
    "system shared memory": lambda client, headers: client.get_system_shared_memory_status(headers=headers),
    "CUDA shared memory": lambda client, headers: client.get_cuda_shared_memory_status(headers=headers),
    "unregister system shared memory": lambda client, headers: client.unregister_system_shared_memory(headers=headers),
    "unregister CUDA shared memory": lambda client, headers: client.unregister_cuda_shared_memory(headers=headers),
    "trace settings": lambda client, headers: client.get_trace_settings(headers=headers),
    "a model's trace settings": lambda client, headers: client.get_trace_settings("echo", headers=headers),
    "log settings": lambda client, headers: client.get_log_settings(headers=headers),
    "changing log settings": lambda client, headers: client.update_log_settings({}, headers=headers),
}
OPEN = ("/v2", "/v2/health/ready", "/v2/models/echo", "/v2/models/echo/config", "/v2/models/echo/stats")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    with started(
        model_repository=make_repository(tmp_path_factory.mktemp("echo") / "models"), models=["echo"]
    ) as server:
        yield server


def status(server: TritonServer, what: str, headers: Mapping[str, str]) -> int:
    method, path = HTTP[what]
    body = b"{}" if method == "POST" else None
    request = urllib.request.Request(server.urls.http + path, body, dict(headers), method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        assert "This API is restricted" in json.loads(error.read())["error"]
        return error.code


@pytest.mark.parametrize("what", HTTP)
def test_over_http(what: str, server: TritonServer) -> None:
    page = {"Origin": "https://example.org", "Content-Type": "text/plain"}  # what a browser sends for any page, unasked
    for wrong in ({}, page, {"triton-control": "wrong"}, {"triton-control": ""}):
        assert status(server, what, wrong) == 403
    assert status(server, what, {"triton-control": server.control_key}) == 200


@pytest.mark.parametrize("what", GRPC)
def test_over_grpc(what: str, server: TritonServer) -> None:
    name = "triton-grpc-protocol-triton-control"
    with InferenceServerClient(grpc(server)) as client:
        for wrong in (None, {name: "wrong"}, {"triton-control": server.control_key}):
            with pytest.raises(InferenceServerException, match="This protocol is restricted"):
                GRPC[what](client, wrong)
        GRPC[what](client, {name: server.control_key})


def test_the_command_line_does_not_tell_the_key(server: TritonServer) -> None:
    arguments = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
    stars = "*" * len(server.control_key)
    assert f"--http-restricted-api=model-repository,shared-memory,trace,logging:triton-control={stars}" in arguments
    assert not [argument for argument in arguments if server.control_key in argument]
    assert f"--http-port={server.http_port}" in arguments


def test_all_else_is_open(server: TritonServer, capsys: pytest.CaptureFixture[str]) -> None:
    for path in OPEN:
        with urllib.request.urlopen(server.urls.http + path, timeout=30) as response:
            assert response.status == 200
    assert ask(server, "world") == "hello world"
    assert health.main(["echo", f"--port={server.http_port}", f"--server-pid={server.pid}"]) == 0


def test_the_key_is_random_and_in_a_file_for_its_owner_alone(server: TritonServer, tmp_path: Path) -> None:
    files = [key_file(port) for port in (server.http_port, server.grpc_port)]
    for file in files:
        assert file.read_text() == server.control_key + "\n"
        assert file.stat().st_mode & 0o777 == 0o600
    with started(model_repository=make_repository(tmp_path / "models"), models=[]) as other:
        assert other.control_key != server.control_key
        others = [key_file(port) for port in (other.http_port, other.grpc_port)]
        assert all(file.exists() for file in others)
    assert not any(file.exists() for file in others)
    assert all(file.exists() for file in files)


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_fluxclient_finds_the_key_or_is_told_of_it(
    transport: str, server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FluxClient(getattr(server.urls, transport), model="echo") as client:
        client.load()
        monkeypatch.setenv("TRITON_CONTROL_KEY", "wrong")
        with pytest.raises(ServerError, match="restricted, expecting header") as caught:
            client.load()
        assert (caught.value.code, caught.value.field) == ("UNAVAILABLE", "control_key")
    with FluxClient(getattr(server.urls, transport), model="echo", control_key=server.control_key) as client:
        client.unload()
        client.load()


def test_a_key_that_is_given_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CONTROL_KEY", "my own = key")
    assert TritonServer(make_repository(tmp_path / "models")).control_key == "my own = key"
    monkeypatch.setenv("TRITON_CONTROL_KEY", "line\nbreak")
    with pytest.raises(ServerFailed, match="TRITON_CONTROL_KEY: must be visible ASCII"):
        TritonServer(tmp_path / "models")
