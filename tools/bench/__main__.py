"""Measures this server and its peers side by side: `make bench`, or `python -m tools.bench`.

Peers on the same traffic (steps 4 to 12, flux-tiny 128x128, same dtype and threads for all): one FluxPipeline behind a
global lock and an HTTP server; this server in its modes serial, static and continuous; and, as the limit, the bare
step loop without any server. Rounds go through all of them in turn, since machines drift. Prints a table and the
ratios, and writes out/bench.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

from tools.bench import report
from tools.bench.load import Load, run
from tools.bench.peers import MODEL, PROJECT, global_lock, run_module
from tools.bench.traffic import traffic
from tools.triton.server import TritonServer

MODES = ("serial", "static", "continuous")
REQUESTS = {1: 18, 4: 45, 16: 180, 64: 198}
"""By number of clients; multiples of nine, so that the steps average 8."""

ALONE = 270
"""Requests of which every ninth has 8 steps: 30 latencies of one request alone."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="a FLUX.1 folder with serving.json")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of all peers")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch, for all peers")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=PROJECT / "out" / "bench.json")
    options = parser.parse_args()
    same = ["--model", str(options.model.resolve()), "--dtype", options.dtype, "--threads", str(options.threads)]

    planning = json.loads(run_module("tools.bench.planning"))
    environment = {
        "FLUX_MODEL": str(options.model.resolve()),
        "FLUX_DTYPE": options.dtype,
        "FLUX_NUM_THREADS": str(options.threads),
    }
    eight = [wanted for wanted in traffic(ALONE, seed=2) if wanted.num_inference_steps == 8]
    rounds: dict[str, dict[int, list[Load]]] = {}
    bares: list[report.Bare] = []
    alone: list[Load] = []
    with global_lock(same) as lock_url, TritonServer(environment=environment) as server:
        url = f"{server.urls.http}/v2/models/flux/generate"
        peers: dict[str, tuple[str, Callable[[], None]]] = {"global lock": (lock_url, lambda: None)}
        for mode in MODES:
            peers[mode] = (url, partial(server.load, "flux", parameters={"scheduling": mode}))
        for number in range(options.rounds):
            for peer, (peer_url, prepare) in peers.items():
                prepare()
                run(peer_url, traffic(18, seed=100), 4)  # warm-up
                for clients, requests in REQUESTS.items():
                    load = run(peer_url, traffic(requests, seed=clients), clients)
                    say(f"round {number + 1}: {peer}, {clients} clients: {load.pictures_per_s:.1f} pictures/s")
                    rounds.setdefault(peer, {}).setdefault(clients, []).append(load)
            alone.append(run(url, eight, 1))
            bares.append(json.loads(run_module("tools.bench.bare", *same)))
            say(f"round {number + 1}: the bare loop: {max(bares[-1]['loop'].values()):.1f} pictures/s")

    bare = report.merge_bare(bares)
    alone_ms = {
        "pipeline": statistics.median(bare["alone_ms"]),
        "server": report.merge(alone).percentile_ms(50),
    }
    results = {
        peer: {clients: report.merge(loads) for clients, loads in by_clients.items()}
        for peer, by_clients in rounds.items()
    }
    claims = report.claims(results, bare, alone_ms, planning)
    _write(options, results, bare, alone_ms, planning, claims)
    loop = ", ".join(f"{rate:.1f} at {batch}" for batch, rate in bare["loop"].items())
    print(f"\n{report.table(results)}\n\nbare loop, pictures/s by batch size: {loop}")
    server_ms, pipeline_ms = alone_ms["server"], alone_ms["pipeline"]
    print(f"one request of 8 steps alone: {server_ms:.0f} ms; the pipeline called directly: {pipeline_ms:.0f} ms\n")
    for claim in claims:
        print(claim.line())
    print(f"\nwritten: {options.output}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(
    options: argparse.Namespace,
    results: report.Results,
    bare: report.Bare,
    alone_ms: dict[str, float],
    planning: dict[str, dict[str, float]],
    claims: list[report.Claim],
) -> None:
    document = {
        "setup": {
            "dtype": options.dtype,
            "threads": options.threads,
            "rounds": options.rounds,
            "machine": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "versions": {name: version(name) for name in ("torch", "diffusers", "nvidia-pytriton")},
        },
        "results": {
            peer: {str(clients): report.figures(load) for clients, load in by_clients.items()}
            for peer, by_clients in results.items()
        },
        "bare_loop_pictures_per_s": bare["loop"],
        "alone_ms": alone_ms,
        "planning_ms": planning,
        "claims": [{"text": c.text, "value": c.value, "bound": c.bound, "met": c.met} for c in claims],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
