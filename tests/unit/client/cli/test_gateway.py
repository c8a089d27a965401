"""`fluxclient gateway` up to where the gateway begins, and that it begins."""

from __future__ import annotations

import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import fluxclient.gateway
from fluxclient.cli.app import main
from fluxclient.gateway import server as gateway_process
from fluxclient.gateway.config import GatewayConfig
from tests.unit.client.fakes.command import BOUND_S, start, wait_until
from tests.unit.client.fakes.grpc_server import WireServer


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "often"], ["rate", "'often'", "60/minute"]),
        (["--keys", "missing.txt"], ["missing.txt", "No such file"]),
        (["--keys", "empty.txt"], ["empty.txt", "no key"]),
        (["--port", "70000"], ["--port", "'70000'", "0 to 65535"]),
        (["--url", "localhost:8001"], ["localhost:8001", "grpc://"]),
        (["--alias", " "], ["--alias", "' '", "gpt-image-1"]),
        (["--response-format", "file"], ["--response-format", "'file'", "b64_json or url"]),
        (["--public-url", "flux.example"], ["--public-url", "'flux.example'", "https://"]),
        (["--public-url", "https://flux.example/?a=1"], ["--public-url", "https://"]),
        (["--allow-origin", "https://app.example/"], ["--allow-origin", "https://app.example/", "without a path"]),
        (["--allow-origin", "null"], ["--allow-origin", "'null'"]),
        (["--max-uploads-mib", "40"], ["--max-uploads-mib", "is 40;", "must be 41 or more"]),
        (["--max-jobs-mib", "0"], ["--max-jobs-mib", "'0'", "1 or more"]),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "empty.txt").write_text("# none yet\n")
    process = start("gateway", "--port", "0", *arguments, cwd=tmp_path)
    _, told = process.communicate(timeout=BOUND_S)
    assert process.returncode == 2
    assert told.count("\n") == 1
    assert [word for word in words if word not in told] == []


def test_without_the_extra_it_tells_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The attribute as well, which the import below makes another module that is not whole.
    monkeypatch.setattr(fluxclient, "gateway", fluxclient.gateway)
    for module in [name for name in sys.modules if name.startswith("fluxclient.gateway")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "limits", None)  # as if it were not installed
    assert main(["gateway"]) == 2
    assert "limits is not installed; the gateway needs: pip install 'fluxclient[gateway]'" in capsys.readouterr().err


OPTIONS = {
    "--alias": ("gpt-image-1", "dall-e-3"),
    "--response-format": ("url",),
    "--public-url": ("https://flux.example",),
    "--allow-origin": ("https://app.example", "http://localhost:3000"),
}


@pytest.mark.parametrize("by_environment", [False, True])
def test_options_reach_the_gateway(by_environment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: list[str] = []
    for option, values in OPTIONS.items():
        if by_environment:
            variable = f"FLUXCLIENT_GATEWAY_{option.removeprefix('--').replace('-', '_').upper()}"
            monkeypatch.setenv(variable, " ".join(values))
        else:
            arguments += [word for value in values for word in (option, value)]
    served: list[GatewayConfig] = []
    monkeypatch.setattr(gateway_process, "serve", served.append)
    assert main(["gateway", "--max-uploads-mib", "100", "--max-jobs-mib", "2", "--max-files-mib", "3", *arguments]) == 0
    (config,) = served
    assert config.aliases == OPTIONS["--alias"]
    assert (config.response_format, config.public_url) == ("url", "https://flux.example")
    assert config.allow_origins == OPTIONS["--allow-origin"]
    sizes = (config.max_uploads_bytes, config.max_jobs_bytes, config.max_files_bytes)
    assert sizes == (100 * 2**20, 2 * 2**20, 3 * 2**20)


def test_without_options_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[GatewayConfig] = []
    monkeypatch.setattr(gateway_process, "serve", served.append)
    assert main(["gateway"]) == 0
    assert served == [GatewayConfig()]


def test_it_serves_until_it_is_told_to_stop(server: WireServer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start("gateway", "--port", str(port), "--url", server.url)

    def serves() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=BOUND_S) as response:
                return bool(response.status == 200)
        except urllib.error.URLError:
            return False

    try:
        assert wait_until(serves)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=BOUND_S)
    assert process.returncode in (0, -signal.SIGTERM)
