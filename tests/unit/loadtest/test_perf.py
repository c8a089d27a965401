from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest import perf
from loadtest.perf import check_binary, input_data, points_of
from loadtest.reporting.formats import PERF, fault
from tests.unit.loadtest.server.api_server import ApiServer


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
