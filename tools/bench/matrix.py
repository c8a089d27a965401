"""What each way to make a step cheaper gains and costs: `python -m tools.bench.matrix`, or second in `make bench`.

One server, set to each variant in turn, several rounds of all of them; beside its speed at 16 clients the quality of
its pictures: how far they are from those of plain float32, and whether they show what their prompts say. The global
lock of the first half runs along. A second table says what a step cache is worth at 28 steps, by threshold.
Writes out/bench_matrix.json.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tools.bench.load import Load, run
from tools.bench.peers import MODEL, PROJECT, global_lock
from tools.bench.quality import Quality, judge
from tools.bench.report import merge
from tools.bench.traffic import Wanted, held_out_traffic, traffic
from tools.triton.api import ApiError
from tools.triton.errors import ServerFailed
from tools.triton.server import TritonServer

CLIENTS = 16
REQUESTS = 90
JUDGED = 100
"""Pictures of 8 steps by which quality is judged."""

THRESHOLDS = ("0.03", "0.05", "0.08", "0.12", "0.2")
LONG_STEPS = 28
LONG_REQUESTS = 48

LOAD_S = 1800.0
"""Compiling takes its time."""

PUBLISHED_S = 1.1
"""After which the server's metrics tell of all that was done before."""

PLAIN = {
    "dtype": "float32",
    "compile": "off",
    "quantization": "none",
    "step_cache": "off",
}


@dataclass(frozen=True, slots=True)
class Variant:
    name: str
    parameters: dict[str, str]
    change: Callable[[int, Wanted], Wanted] = lambda _, wanted: wanted
    """What request number n asks for besides."""
    comparable: bool = True
    """Whether its pictures are meant to be those of plain float32."""


def with_loras(n: int, wanted: Wanted) -> Wanted:
    names = ("", "greyscale", "outline", "greyscale:0.5,outline:0.5")
    return replace(wanted, more={"lora": names[n % len(names)]})


def with_negative_prompt(_: int, wanted: Wanted) -> Wanted:
    return replace(wanted, more={"negative_prompt": "a small red circle on a white background", "true_cfg_scale": 2.0})


def from_image(_: int, wanted: Wanted) -> Wanted:
    image = base64.b64encode((PROJECT / "docs" / "demo.png").read_bytes()).decode()
    return replace(wanted, more={"image": image, "strength": 0.6})


COMPILED = {"compile": "default", "compile_cache": str(PROJECT / "out" / "compiled")}

VARIANTS = (
    Variant("plain float32", {}),
    Variant("four mixes of LoRAs", {}, with_loras, comparable=False),
    Variant("negative prompts", {}, with_negative_prompt, comparable=False),
    Variant("image to image", {}, from_image, comparable=False),
    Variant("dtype=bfloat16", {"dtype": "bfloat16"}),
    Variant("compile=default", COMPILED),
    Variant("quantization=int8_weight_only", {"quantization": "int8_weight_only"}),
    Variant("quantization=int8_dynamic", {"quantization": "int8_dynamic"}),
    Variant("step_cache=0.1", {"step_cache": "0.1"}),
    Variant("step_cache=0.2", {"step_cache": "0.2"}),
    Variant("compile=default, step_cache=0.2", {**COMPILED, "step_cache": "0.2"}),
)


@dataclass(slots=True)
class Measured:
    loads: list[Load] = field(default_factory=list)
    quality: Quality | None = None

    def row(self, name: str, plain_per_s: float) -> str:
        load = merge(self.loads)
        quality = self.quality.cells() if self.quality else ["", "", ""]
        cells = [
            f"{load.pictures_per_s:.1f}",
            f"{load.pictures_per_s / plain_per_s:.2f}",
            f"{load.percentile_ms(50):.0f}",
            f"{load.percentile_ms(95):.0f}",
            *quality,
        ]
        return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch, for all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--only", nargs="*", help="variants by a part of their names, besides those that change nothing"
    )
    parser.add_argument("--no-thresholds", action="store_true", help="leave out the second table")
    parser.add_argument("--output", type=Path, default=PROJECT / "out" / "bench_matrix.json")
    options = parser.parse_args()
    variants = [
        variant
        for variant in (*VARIANTS, Variant("as shipped", default_parameters()))
        if not options.only or not variant.parameters or any(part in variant.name for part in options.only)
    ]
    lock_options = ["--model", str(MODEL), "--dtype", "float32", "--threads", str(options.threads)]
    measured: dict[str, Measured] = {}
    refused: dict[str, str] = {}
    with (
        global_lock(lock_options) as lock_url,
        TritonServer(start_timeout_s=LOAD_S, environment={"FLUX_NUM_THREADS": str(options.threads)}) as server,
    ):
        url = f"{server.urls.http}/v2/models/flux/generate"
        for number in range(options.rounds):
            lock = measured.setdefault("global lock, float32", Measured())
            lock.loads.append(run(lock_url, traffic(45, seed=number), CLIENTS))
            for variant in variants:
                if variant.name in refused or not set_up(server, variant, refused):
                    continue
                one = measured.setdefault(variant.name, Measured())
                wanted = [variant.change(n, each) for n, each in enumerate(traffic(REQUESTS, seed=number))]
                one.loads.append(run(url, wanted, CLIENTS))
                if number == 0 and variant.comparable:
                    judged = run(url, held_out_traffic(JUDGED, steps=8, seed=1), CLIENTS)
                    one.quality = judge(judged, measured["plain float32"].quality)
                say(f"round {number + 1}: {variant.name}: {one.loads[-1].pictures_per_s:.1f} pictures/s")
        thresholds = [] if options.no_thresholds else step_cache_by_threshold(server, url)
    print("\n" + table(measured))
    for name, why in refused.items():
        print(f"not possible here: {name}: {why}")
    if thresholds:
        print("\n" + threshold_table(thresholds))
    write(options.output, measured, refused, thresholds)
    print(f"\nwritten: {options.output}")


def default_parameters() -> dict[str, str]:
    """Those that the variants change, as an operator finds them: on this machine, what `auto` means here."""
    return {"dtype": "auto", **{name: value for name, value in PLAIN.items() if name != "dtype"}}


def set_up(server: TritonServer, variant: Variant, refused: dict[str, str]) -> bool:
    wanted = {**PLAIN, **variant.parameters}
    shown = server.api.configuration("flux")["parameters"]
    if all(shown.get(name) == {"string_value": value} for name, value in wanted.items()):
        return True
    try:
        server.load("flux", parameters=wanted)
    except (ServerFailed, ApiError) as error:
        refused[variant.name] = str(error).splitlines()[0]
        return False
    run(f"{server.urls.http}/v2/models/flux/generate", traffic(18, seed=100), CLIENTS)  # warm-up
    return True


@dataclass(frozen=True, slots=True)
class Threshold:
    threshold: str
    load: Load
    quality: Quality
    reused: float
    """Share of the steps that were cut short."""


def step_cache_by_threshold(server: TritonServer, url: str) -> list[Threshold]:
    rows: list[Threshold] = []
    for threshold in ("off", *THRESHOLDS):
        if not set_up(server, Variant("", {"step_cache": threshold}), {}):
            continue
        before = counters(server)
        load = run(url, held_out_traffic(LONG_REQUESTS, steps=LONG_STEPS, seed=2), CLIENTS)
        done = {name: value - before.get(name, 0) for name, value in counters(server).items()}
        quality = judge(load, rows[0].quality if rows else None)
        rows.append(Threshold(threshold, load, quality, done.get("reused_steps", 0) / done["steps"]))
        say(f"step_cache={threshold}, {LONG_STEPS} steps: {load.pictures_per_s:.1f} pictures/s")
    return rows


def counters(server: TritonServer) -> dict[str, float]:
    """The engine's counters, by their names without flux_ and _total."""
    time.sleep(PUBLISHED_S)
    with urllib.request.urlopen(server.urls.metrics, timeout=10) as response:
        families = text_string_to_metric_families(response.read().decode())
    found: dict[str, float] = {}
    for family in families:
        if family.name.startswith("flux_") and family.type == "counter":
            found[family.name.removeprefix("flux_").removesuffix("_total")] = sum(one.value for one in family.samples)
    return found


def table(measured: dict[str, Measured]) -> str:
    plain = merge(measured["plain float32"].loads).pictures_per_s
    head = "| variant | pictures/s | ÷ plain | p50 ms | p95 ms | PSNR dB | background right | subject right |"
    rows = [one.row(name, plain) for name, one in measured.items()]
    return "\n".join([head, "|---|--:|--:|--:|--:|--:|--:|--:|", *rows])


def threshold_table(rows: Sequence[Threshold]) -> str:
    head = "| step_cache | steps cut short | pictures/s ÷ off | PSNR dB | background right | subject right |"
    lines = [head, "|---|--:|--:|--:|--:|--:|"]
    for row in rows:
        gain = row.load.pictures_per_s / rows[0].load.pictures_per_s
        lines.append(f"| {row.threshold} | {row.reused:.0%} | {gain:.2f} | " + " | ".join(row.quality.cells()) + " |")
    return "\n".join(lines)


def write(path: Path, measured: dict[str, Measured], refused: dict[str, str], thresholds: Sequence[Threshold]) -> None:
    def figures(load: Load, quality: Quality | None) -> dict[str, object]:
        return {
            "pictures_per_s": load.pictures_per_s,
            "p50_ms": load.percentile_ms(50),
            "p95_ms": load.percentile_ms(95),
            **(quality.figures() if quality else {}),
        }

    document = {
        "clients": CLIENTS,
        "variants": {name: figures(merge(one.loads), one.quality) for name, one in measured.items()},
        "not_possible_here": refused,
        "step_cache_at_28_steps": {
            row.threshold: {"reused": row.reused, **figures(row.load, row.quality)} for row in thresholds
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
