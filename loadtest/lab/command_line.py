"""The command line of `python -m loadtest`."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from loadtest.lab.slo import DEFAULT_SCALE
from loadtest.server.strategies import BASELINE, CUSTOM, STRATEGIES
from loadtest.traffic.mix import NAMES
from loadtest.traffic.protocols import PROTOCOLS
from tools.triton.installation import PROJECT

COMMANDS = ("run", "sweep", "compare")
OTHERS = "Also: python -m loadtest sweep, python -m loadtest compare A.json B.json; each with --help."
OUTPUT = PROJECT / "out" / "loadtest"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """`command` is one of COMMANDS; `run` may be left out. Ends the process with code 2 on a bad option."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest",
        description="Measures what a server of flux carries, and which way to serve suits the traffic.",
        epilog="Exit codes: 0 measured; 1 a bound (--min-success, --min-slo) is not held; 2 a bad option or file; "
        "3 the server refuses, or is not there; 4 the measurement broke off; 130 interrupted.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", description=parser.description, epilog=f"{OTHERS} {parser.epilog}", prog="python -m loadtest"
    )
    _add_server(run)
    _add_load(run, requests=20, concurrent=3)
    add = run.add_argument_group("measurement").add_argument
    add("--rate", type=number_above(0), metavar="R",
        help="requests/s of an open loop with Poisson arrivals, in place of --concurrent users")  # fmt: skip
    add("--repeats", type=integer(1), default=5, help="rounds through all strategies; default 5")
    add("--min-success", type=_share, metavar="SHARE", help="exit code 1 if less of the requests succeed")
    add("--min-slo", type=_share, metavar="SHARE", help="exit code 1 if less of the requests meet their SLO")
    add = run.add_argument_group("output").add_argument
    add("--plot", action="store_true", help="write performance_comparison.png and latency_distribution.png")
    add("--save", action="store_true", help="write results.json, results.csv, report.html and the records")
    add("--output", type=Path, default=OUTPUT, help="folder for these; default out/loadtest")
    sweep = commands.add_parser("sweep", help="raise the rate until the SLO breaks")
    _add_server(sweep)
    _add_load(sweep, requests=200, concurrent=16)
    add = sweep.add_argument_group("measurement").add_argument
    add("--target", type=_share, default=0.95, metavar="SHARE",
        help="of the requests must meet their SLO at a rate that is carried; default 0.95")  # fmt: skip
    add("--repeats", type=integer(1), default=3,
        help="runs of one rate at most, as long as chance may decide; default 3")  # fmt: skip
    add("--output", type=Path, default=OUTPUT, help="folder for sweep.json and sweep.png; default out/loadtest")
    compare = commands.add_parser("compare", help="say whether two results.json differ")
    compare.add_argument("before", type=Path, metavar="A.json")
    compare.add_argument("after", type=Path, metavar="B.json")
    named = arguments and arguments[0] in COMMANDS
    options = parser.parse_args(arguments if named else ["run", *arguments])
    if options.command != "compare":
        given = [name for text in options.strategies or () for name in text.split(",") if name]
        options.strategies = given or ([] if options.no_reconfigure else [BASELINE])
    return options


def _add_server(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("server").add_argument
    add("--url", default="http://localhost:8000", help="Triton's HTTP address; default http://localhost:8000")
    add("--grpc", metavar="HOST:PORT", help="default port 8001 of the same host")
    add("--metrics-url", metavar="URL", help="default http://HOST:8002/metrics")
    add("--gateway-url", metavar="URL", help="for --protocol openai; default port 8080 of the same host")
    add("--model", default="flux", help="default flux")
    add("--control-key", metavar="KEY", default=os.environ.get("TRITON_CONTROL_KEY"),
        help="what the server wants for loading models; default $TRITON_CONTROL_KEY, not seen by ps")  # fmt: skip
    add("--start-server", action="store_true", help="start a Triton of our own on free ports, and stop it at the end")
    add("--strategies", nargs="+", metavar="NAME",
        help=f"{', '.join(STRATEGIES)}, {CUSTOM}NAME, all; default {BASELINE}")  # fmt: skip
    add("--strategy-file", type=Path, metavar="FILE", help=f"declares {CUSTOM}NAME; see loadtest/server/strategies.py")
    add("--instances", type=integer(1), default=2, help="of model_pool; default 2")
    add("--no-reconfigure", action="store_true", help="measure the server as it is; never load a model")


def _add_load(parser: argparse.ArgumentParser, *, requests: int, concurrent: int) -> None:
    add = parser.add_argument_group("load").add_argument
    add("--requests", type=integer(1), default=requests, help=f"of each run; default {requests}")
    add("--concurrent", type=integer(1), default=concurrent,
        help=f"users, each waiting for its answer; default {concurrent}")  # fmt: skip
    add("--protocol", choices=PROTOCOLS, default="grpc-stream",
        help="default grpc-stream, the only one that tells when a request begins")  # fmt: skip
    add("--mix", default="uniform", help=f"{', '.join(NAMES)}, or a JSON file; default uniform")
    add("--seed", type=integer(0), default=1, help="of the traffic; default 1")
    add("--warm-up", type=integer(1), metavar="N", help="unmeasured requests before each run; default 2 × concurrent")
    add("--request-timeout", type=number_above(0), default=120.0, metavar="S", help="default 120")
    add("--check-prompts", action="store_true", help="flux-tiny only: a picture must show what its prompt says")
    add("--slo-scale", type=_scale, default=DEFAULT_SCALE, metavar="X",
        help=f"SLO as a multiple of the time of a request alone; default {DEFAULT_SCALE:g}")  # fmt: skip
    add("--slo-ms", type=number_above(0), metavar="MS", help="SLO as a time, the same for all requests")


def integer(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isdecimal() and int(text) >= least):
            raise argparse.ArgumentTypeError(f"is {text!r}; must be an integer of at least {least}")
        return int(text)

    return parse


def number_above(least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = _number(text)
        if not value > least:
            raise argparse.ArgumentTypeError(f"is {text!r}; must be a number of more than {least:g}")
        return value

    return parse


def _scale(text: str) -> float:
    value = _number(text)
    if not value >= 1:
        raise argparse.ArgumentTypeError(f"is {text!r}; must be a number of at least 1")
    return value


def _share(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"is {text!r}; must be a share from 0 to 1, such as 0.99")
    return value


def _number(text: str) -> float:
    """NaN, which passes no comparison, for anything that is no finite number."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
