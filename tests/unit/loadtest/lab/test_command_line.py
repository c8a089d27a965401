from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from loadtest import __main__ as lab
from loadtest import perf
from loadtest.failures import BadInput
from loadtest.lab.command_line import parse
from loadtest.perf import check_binary, input_data, points_of
from loadtest.reporting.formats import PERF, fault
from loadtest.server.target import Target, parse_target
from tests.unit.loadtest.server.api_server import ApiServer
from tools.triton.ports import choose_port


def test_the_defaults_of_the_contract() -> None:
    options = parse([])
    assert (options.command, options.url) == ("run", "http://localhost:8000")
    assert (options.requests, options.concurrent, options.strategies) == (20, 3, ["baseline"])
    assert not (options.plot or options.save)


def test_the_control_key_is_an_option_or_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_CONTROL_KEY", raising=False)
    assert parse([]).control_key is None
    monkeypatch.setenv("TRITON_CONTROL_KEY", "from the variable")
    assert parse(["sweep"]).control_key == "from the variable"
    assert parse(["--control-key", "given"]).control_key == "given"
    assert "given" not in repr(parse_target("localhost", control_key="given"))


def test_strategies_may_be_given_with_commas_and_blanks() -> None:
    assert parse(["--strategies", "baseline,async", "batch"]).strategies == ["baseline", "async", "batch"]
    assert parse(["--no-reconfigure"]).strategies == []
    assert parse(["compare", "a.json", "b.json"]).before == Path("a.json")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--requests", "0"], "--requests: is '0'; must be an integer of at least 1"),
        (["--concurrent", "x"], "--concurrent: is 'x'; must be an integer"),
        (["--rate", "0"], "--rate: is '0'; must be a number of more than 0"),
        (["--rate", "nan"], "--rate: is 'nan'; must be a number of more than 0"),
        (["--slo-scale", "0.5"], "--slo-scale: is '0.5'; must be a number of at least 1"),
        (["--min-success", "99"], "--min-success: is '99'; must be a share from 0 to 1"),
        (["--protocol", "carrier-pigeon"], "--protocol: invalid choice: 'carrier-pigeon'"),
        (["sweep", "--target", "2"], "--target: is '2'; must be a share"),
    ],
)
def test_a_bad_option_is_named_with_what_is_allowed(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        parse(arguments)
    assert raised.value.code == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://gpu:9000", ("gpu", 9000, "gpu:8001", "http://gpu:8002/metrics")),
        ("gpu", ("gpu", 8000, "gpu:8001", "http://gpu:8002/metrics")),
        ("http://[::1]:8000/", ("[::1]", 8000, "[::1]:8001", "http://[::1]:8002/metrics")),
    ],
)
def test_addresses_follow_from_the_url(url: str, expected: tuple[str, int, str, str]) -> None:
    target = parse_target(url)
    assert (target.host, target.http_port, target.grpc, target.metrics_url) == expected


@pytest.mark.parametrize("url", ["ftp://x", "http://x:99999", "http://", "http://x/v2", "grpc://x:8001"])
def test_a_wrong_url_is_told(url: str) -> None:
    with pytest.raises(BadInput) as raised:
        parse_target(url)
    assert f"--url is {url!r}" in str(raised.value)


def test_who_listens_without_being_triton_is_not_the_server() -> None:
    """A tunnel, say, or the proxy of a container."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert parse_target(f"127.0.0.1:{listener.getsockname()[1]}").processes() == []


def test_this_machine_is_known_as_such() -> None:
    assert parse_target("localhost").is_local
    assert not Target("192.0.2.1", 8000, "192.0.2.1:8001", "").is_local
    assert not Target("no.such.host.invalid", 8000, "", "").is_local


def nobody() -> str:
    return f"http://127.0.0.1:{choose_port('127.0.0.1', 'http', 0, set())}"


@pytest.mark.parametrize("extra", [[], ["--no-reconfigure"]])
def test_nobody_at_the_url(extra: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    url = nobody()
    assert lab.main(["--url", url, *extra]) == 3
    assert f"no Triton is ready at {url}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--mix", "nope"], "mix"),
        (["--strategies", "nope"], "--strategies: 'nope' is unknown; there are baseline"),
        (["--no-reconfigure", "--strategies", "all"], "has one strategy; name one, or none"),
        (["--url", "ftp://x"], "--url is 'ftp://x'"),
        (["--model", "dev", "--protocol", "http-infer"], "--model: is 'dev'; http-infer always reaches flux"),
        (["--start-server", "--protocol", "openai"], "--protocol openai: needs a gateway"),
        (["--start-server", "--grpc", "b:1"], "--grpc: is 'b:1' beside --start-server"),
        (["--save", "--output", "/proc/nothing"], "--output /proc/nothing: cannot be written to"),
        (["compare", "/none.json", "/none.json"], "/none.json: No such file"),
    ],
)
def test_bad_input_is_told_before_anything_is_sent(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.main(arguments) == 2
    assert problem in capsys.readouterr().err


def test_a_mix_with_an_impossible_size_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mix = tmp_path / "mix.json"
    entry = {"name": "odd", "weight": 1, "width": 100, "height": 128, "num_inference_steps": 4}
    mix.write_text(json.dumps({"entries": [entry]}))
    assert lab.main(["--mix", str(mix)]) == 2
    assert "entries[0].width" in capsys.readouterr().err


def test_a_missing_perf_analyzer_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert perf.main(["--binary", str(tmp_path / "none"), "--output", str(tmp_path)]) == 3
    assert "pip install perf-analyzer" in capsys.readouterr().err


def test_a_perf_analyzer_that_needs_another_glibc_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary = tmp_path / "perf_analyzer"
    binary.write_text("#!/bin/sh\necho \"libc.so.6: version 'GLIBC_2.38' not found\" >&2\nexit 1\n")
    binary.chmod(0o755)
    assert perf.main(["--binary", str(binary), "--output", str(tmp_path)]) == 3
    assert "needs a newer glibc than this system's (glibc" in capsys.readouterr().err
    binary.write_text("#!/bin/sh\necho Perf Analyzer Version 2.60.0\n")
    assert check_binary(str(binary)) == "Perf Analyzer Version 2.60.0"


def test_perf_analyzer_gets_the_requests_of_the_mix() -> None:
    data = input_data("uniform", 1, 5)["data"]
    assert len(data) == 5
    assert data == input_data("uniform", 1, 5)["data"]
    assert data != input_data("uniform", 2, 5)["data"]
    assert all(len(value) == 1 for entry in data for value in entry.values())
    assert {"prompt", "width", "height", "num_inference_steps", "seed"} <= set(data[0])


PERF_REQUESTS = [
    {"timestamp": 1_000_000_000, "response_timestamps": [1_400_000_000]},
    {"timestamp": 1_500_000_000, "response_timestamps": [1_600_000_000, 2_000_000_000]},
    {"timestamp": 1_700_000_000, "response_timestamps": []},
]


def test_perf_analyzers_times_become_the_labs() -> None:
    export = {"experiments": [{"experiment": {"mode": "concurrency", "value": 2}, "requests": PERF_REQUESTS}]}
    (point,) = points_of(export, "flux")
    assert (point.protocol, point.mode, point.value, point.requests) == ("grpc-stream", "concurrency", 2, 3)
    assert point.success_rate == pytest.approx(2 / 3)
    assert (point.throughput_per_s, point.mean_ms, point.p50_ms) == (2.0, 450.0, 450.0)


def test_perf_analyzers_results_are_written_as_their_schema_says(tmp_path: Path) -> None:
    """A binary that gives the same figures whatever it is asked, before a server that is ready for anything."""
    export = {"experiments": [{"experiment": {"mode": "concurrency", "value": 2}, "requests": PERF_REQUESTS}]}
    (tmp_path / "export.json").write_text(json.dumps(export))
    binary = tmp_path / "perf_analyzer"
    lines = (
        "#!/bin/sh",
        '[ "$1" = --version ] && exec echo Perf Analyzer Version 2.60.0',
        "for last; do :; done",
        f'cp {tmp_path}/export.json "$last"',
    )
    binary.write_text("\n".join(lines))
    binary.chmod(0o755)
    with ApiServer().serving() as server:
        url = f"http://{server.api.host}:{server.api.port}"
        options = ["--url", url, "--output", str(tmp_path), "--concurrency", "2", "--rates", "4"]
        assert perf.main(["--binary", str(binary), *options]) == 0
    found = json.loads((tmp_path / "perf.json").read_text())
    assert fault(found, PERF) == ""
    assert [point["model"] for point in found["points"]] == ["flux", "flux", "flux_unary", "flux_unary"]
    del found["points"][0]["seconds"]
    assert fault(found, PERF) == "$.points[0]: 'seconds' is a required property"
