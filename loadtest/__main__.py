"""`python -m loadtest`: see --help."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from loadtest.failures import BoundMissed, Broken, Interrupted, LabError
from loadtest.lab.campaign import Campaign
from loadtest.lab.command_line import parse
from loadtest.lab.setup import session
from loadtest.lab.sweep import sweep
from loadtest.reporting import charts
from loadtest.reporting.compare import compare
from loadtest.reporting.document import document, test_config
from loadtest.reporting.files import encode, prepare_folder, save, table_csv
from loadtest.reporting.formats import RESULTS, fault
from loadtest.reporting.html_report import html
from loadtest.reporting.report import Report


class _Signals:
    """As a context manager: the first signal ends the measurement in order, and until that is done, none does more."""

    def __init__(self) -> None:
        self._seen = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._former[number] = signal.signal(number, self._end)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._seen:
            print(f"{name}: stopping already; the server is put back as it was", file=sys.stderr, flush=True)
            return
        self._seen = True
        raise Interrupted(f"interrupted by {name}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(sys.argv[1:] if arguments is None else arguments)
    commands = {"run": run, "sweep": sweep, "compare": compare}
    with _Signals():
        try:
            commands[options.command](options)
        except (LabError, Interrupted) as error:
            print(f"loadtest: {error}", file=sys.stderr, flush=True)
            return error.exit_code
    return 0


def run(options: argparse.Namespace) -> None:
    """Measures, reports what there is whatever happened, and raises what did."""
    campaign: Campaign | None = None
    failure: LabError | Interrupted | None = None
    try:
        if options.save or options.plot:
            prepare_folder(options.output)
        with session(options, keep=options.save) as campaign:
            campaign.run()
    except (LabError, Interrupted) as error:
        failure = error
    results = campaign.results() if campaign is not None else []
    if campaign is not None and results:
        partial = str(failure or "")
        config = test_config(campaign, reconfigured=not options.no_reconfigure, partial=partial)
        report = Report(results, config, campaign.plan.load.concurrent, partial)
        print(report.text(), flush=True)
        files = _files(report, str(campaign.slo), plot=options.plot, save=options.save)
        if files:
            try:
                for path in save(options.output, files):
                    print(f"written: {path}", flush=True)
                if options.save and (problem := fault(json.loads(files["results.json"]), RESULTS)):
                    raise Broken(f"results.json does not keep to {RESULTS}, which is the lab's own fault: {problem}")
            except Broken as error:
                failure = failure or error
                print(f"loadtest: {error}", file=sys.stderr)
        if failure is None:
            _check_bounds(report, options)
    if failure is not None:
        raise failure


def _files(report: Report, slo: str, *, plot: bool, save: bool) -> Mapping[str, bytes]:
    """By name."""
    if not (plot or save):
        return {}
    pictures = {
        "Comparison": charts.png(charts.comparison(report)),
        "Distribution of response times": charts.png(charts.distribution(report)),
    }
    files: dict[str, bytes] = {}
    if plot:
        files.update(zip(("performance_comparison.png", "latency_distribution.png"), pictures.values(), strict=True))
    if save:
        files["results.json"] = encode(document(report))
        files["results.csv"] = table_csv(report)
        files["report.html"] = html(report, slo, pictures).encode()
    return files


def _check_bounds(report: Report, options: argparse.Namespace) -> None:
    missed = [
        f"{of.strategy.name}: {value:.1%} {what}, at least {bound:.1%} are asked for ({option})"
        for of in report.results
        for value, bound, what, option in (
            (of.pooled.success_rate, options.min_success, "of the requests succeeded", "--min-success"),
            (of.pooled.slo_attainment, options.min_slo, "of the requests met their SLO", "--min-slo"),
        )
        if bound is not None and value < bound
    ]
    if missed:
        raise BoundMissed("; ".join(missed))
    silent = [of.strategy.name for of in report.results if not of.pooled.succeeded]
    if silent:
        raise Broken(f"no request succeeded with {', '.join(silent)}")


if __name__ == "__main__":
    sys.exit(main())
