"""NVIDIA's perf_analyzer on the lab's own traffic: `python -m loadtest.perf`, or `make perf`.

It sweeps concurrency and request rate, over gRPC streams (flux) and plain gRPC (flux_unary), and writes perf.json
beside the lab's results, in the same units and by the same definitions, so that they can be held against each other.

The binary: --binary, $PERF_ANALYZER, or perf_analyzer on the PATH (PyPI's perf-analyzer needs glibc 2.38). Exit codes:
0 measured; 2 a bad option; 3 no binary that runs here, or no server; 4 perf_analyzer failed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtest.failures import BadInput, Broken, FirstFailure, LabError, Refused
from loadtest.lab.command_line import OUTPUT, integer, number_above
from loadtest.lab.figures import percentile
from loadtest.reporting.files import encode, prepare_folder, publish
from loadtest.reporting.formats import PERF, VERSIONS
from loadtest.reporting.table import number, table
from loadtest.server.own_server import own_server
from loadtest.server.target import parse_target
from loadtest.traffic.mix import NAMES, Mix
from tools.triton.api import JSON

FACES = {"flux": ("grpc-stream", ("--streaming",)), "flux_unary": ("grpc-unary", ())}
"""Model, the lab's name for the protocol, perf_analyzer's options."""
INSTALL = (
    "pip install perf-analyzer==2.60.0 where glibc is 2.38 or newer, or run it from NVIDIA's container "
    "nvcr.io/nvidia/tritonserver:26.09-py3-sdk"
)
TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class PerfPoint:
    """perf_analyzer at one load. Times in ms, as the lab has them."""

    model: str
    protocol: str
    mode: str
    """concurrency or request_rate"""
    value: float
    requests: int
    success_rate: float
    seconds: float
    throughput_per_s: float
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        _perform(options)
    except LabError as error:
        print(f"perf: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _perform(options: argparse.Namespace) -> None:
    points: list[PerfPoint] = []
    failure = FirstFailure()
    prepare_folder(options.output)
    version = check_binary(options.binary)
    with ExitStack() as stack:
        if options.start_server:
            target = stack.enter_context(own_server(options.output))
        else:
            target = parse_target(options.url, grpc=options.grpc)
        for model in FACES:
            if not target.api.ready(model):
                raise Refused(f"no Triton is ready with {model} at {target.http_url}; --url names its HTTP address")
        with failure:
            for point in _measure(options, target.grpc):
                print(f"{point.model}, {point.mode} {point.value:g}: {point.throughput_per_s:.2f}/s", file=sys.stderr)
                points.append(point)
    if points:
        print("\n".join(table(list(_rows(points)))))
        config = {"schema_version": VERSIONS[PERF], "tool": version, "url": target.http_url, "mix": options.mix}
        config |= {"seed": options.seed, "requests": options.requests, "partial": failure.text or None}
        document = {"test_config": config, "points": [asdict(point) for point in points]}
        with failure:
            publish(options.output, {"perf.json": encode(document)})
    failure.raise_it()


def check_binary(binary: str) -> str:
    """Its version, if it runs here. Raises Refused, which says what is missing."""
    path = shutil.which(binary)
    if path is None:
        raise Refused(f"there is no {binary!r} that can be run: {INSTALL}; --binary or PERF_ANALYZER names it")
    try:
        ran = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=TIMEOUT_S)
    except OSError as error:
        raise Refused(f"{path} does not run: {error.strerror}: {INSTALL}") from error
    if ran.returncode != 0:
        words = (ran.stderr or ran.stdout).strip()
        if "GLIBC" in words:
            raise Refused(
                f"{path} needs a newer glibc than this system's ({os.confstr('CS_GNU_LIBC_VERSION')}): {words}"
            )
        raise Refused(f"{path} does not run (code {ran.returncode}): {words}: {INSTALL}")
    return ran.stdout.strip().splitlines()[0] if ran.stdout.strip() else "perf_analyzer"


def input_data(mix: str, seed: int, requests: int) -> JSON:
    """The first requests of the lab's mix, as perf_analyzer's --input-data has them. Raises BadInput."""
    try:
        orders = list(itertools.islice(Mix.load(mix).orders(seed), requests))
    except BadInput as error:
        raise BadInput(f"--mix: {error}") from error
    data = []
    for order in orders:
        inputs = order.inputs(TIMEOUT_S)
        data.append({name: [value] for name, value in inputs.items()})
    if len({frozenset(entry) for entry in data}) > 1:
        raise BadInput(
            f"--mix {mix}: perf_analyzer needs the same inputs in all requests; give all a priority, a lora, or none"
        )
    return {"data": data}


def points_of(export: JSON, model: str) -> Iterator[PerfPoint]:
    """Of perf_analyzer's --profile-export-file, whose times are nanoseconds."""
    for experiment in export["experiments"]:
        requests = experiment["requests"]
        good = [request for request in requests if request["response_timestamps"]]
        ends = [request["response_timestamps"][-1] for request in good]
        latencies = [(end - request["timestamp"]) / 1e6 for request, end in zip(good, ends, strict=True)]
        seconds = (max(ends) - min(request["timestamp"] for request in requests)) / 1e9 if ends else 0.0
        yield PerfPoint(
            model=model,
            protocol=FACES[model][0],
            mode=experiment["experiment"]["mode"],
            value=experiment["experiment"]["value"],
            requests=len(requests),
            success_rate=len(good) / len(requests) if requests else 0.0,
            seconds=seconds,
            throughput_per_s=len(good) / seconds if seconds else 0.0,
            mean_ms=sum(latencies) / len(latencies) if latencies else None,
            p50_ms=percentile(latencies, 50),
            p95_ms=percentile(latencies, 95),
            p99_ms=percentile(latencies, 99),
        )


def _measure(options: argparse.Namespace, grpc: str) -> Iterator[PerfPoint]:
    with tempfile.TemporaryDirectory(prefix="perf-") as folder:
        data = Path(folder, "data.json")
        data.write_text(json.dumps(input_data(options.mix, options.seed, options.requests)))
        loads = [("--concurrency-range", f"{value}:{value}") for value in options.concurrency]
        loads += [("--request-rate-range", f"{rate:g}:{rate:g}") for rate in options.rates]
        for model, (_, extra) in FACES.items():
            for load in loads:
                export = Path(folder, "export.json")
                command = [options.binary, "-m", model, "-u", grpc, "-i", "grpc", "--async", *extra, *load]
                command += ["--input-data", str(data), "--request-count", str(options.requests)]
                command += ["--request-distribution", "poisson"] if "rate" in load[0] else []
                command += ["--profile-export-file", str(export)]
                yield from points_of(_run(command, export), model)


def _run(command: Sequence[str], export: Path) -> JSON:
    export.unlink(missing_ok=True)
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise Broken(f"{' '.join(command)}: not done after {TIMEOUT_S} s") from error
    if ran.returncode != 0 or not export.is_file():
        words = "\n".join((ran.stdout + ran.stderr).strip().splitlines()[-6:])
        raise Broken(f"{' '.join(command)} ended with code {ran.returncode}: {words}")
    found: JSON = json.loads(export.read_text())
    return found


def _rows(points: Sequence[PerfPoint]) -> Iterator[list[str]]:
    yield ["model", "load", "throughput/s", "success", "mean ms", "P50 ms", "P95 ms", "P99 ms"]
    for point in points:
        unit = "at once" if point.mode == "concurrency" else "requests/s"
        times = [number(value) for value in (point.mean_ms, point.p50_ms, point.p95_ms, point.p99_ms)]
        rate = f"{point.throughput_per_s:.2f}"
        yield [point.model, f"{point.value:g} {unit}", rate, f"{point.success_rate:.1%}", *times]


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.perf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--url", default="http://localhost:8000", help="Triton's HTTP address; default http://localhost:8000")
    add("--grpc", metavar="HOST:PORT", help="default port 8001 of the same host")
    add("--start-server", action="store_true", help="start a Triton of our own on free ports, and stop it at the end")
    add(
        "--binary", default=os.environ.get("PERF_ANALYZER", "perf_analyzer"), help="default $PERF_ANALYZER, or the PATH"
    )
    add("--mix", default="uniform", help=f"{', '.join(NAMES)}, or a JSON file; default uniform")
    add("--seed", type=integer(0), default=1, help="of the traffic; default 1, as the lab's")
    add("--requests", type=integer(1), default=60, help="of each run; default 60")
    add("--concurrency", type=integer(1), nargs="*", default=[1, 3, 16], metavar="N", help="default 1 3 16")
    add("--rates", type=number_above(0), nargs="*", default=[2.0, 4.0], metavar="R", help="requests/s; default 2 4")
    add("--output", type=Path, default=OUTPUT, help="folder for perf.json; default out/loadtest")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
