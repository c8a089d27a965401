"""What `python -m loadtest` does: measures, and says what came of it, also where something broke off."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from loadtest.failures import BoundMissed, Broken, FirstFailure
from loadtest.lab.campaign import Campaign
from loadtest.lab.setup import set_up
from loadtest.lab.sweep import Sweep
from loadtest.reporting import charts, sweep_report
from loadtest.reporting.document import document, test_config
from loadtest.reporting.files import encode, prepare_folder, publish, table_csv
from loadtest.reporting.html_report import html
from loadtest.reporting.report import Report


def run(options: argparse.Namespace) -> None:
    """Measures all strategies under one load. Raises LabError and Interrupted, when what there is has been told."""
    campaign: Campaign | None = None
    failure = FirstFailure()
    with failure:
        if options.save or options.plot:
            prepare_folder(options.output)
        with set_up(options, keep=options.save) as campaign:
            campaign.run()
    results = campaign.results() if campaign is not None else []
    if campaign is not None and results:
        partial = failure.text
        config = test_config(campaign, reconfigured=not options.no_reconfigure, partial=partial)
        report = Report(results, config, campaign.load.concurrent, partial)
        print(report.text(), flush=True)
        with failure:
            publish(options.output, _files(report, str(campaign.slo), plot=options.plot, save=options.save))
        if not failure.text:
            _check_bounds(report, options)
    failure.raise_it()


def sweep(options: argparse.Namespace) -> None:
    """Raises the rate for each strategy until the SLO breaks. Raises as `run` does."""
    campaign: Campaign | None = None
    failure = FirstFailure()
    sweeps: list[Sweep] = []
    with failure:
        prepare_folder(options.output)
        with set_up(options, keep=True) as campaign:
            for strategy in campaign.strategies:
                sweeps.append(Sweep(campaign, strategy, options.target))
                sweeps[-1].run()
    swept = [of.swept() for of in sweeps if of.capacity_per_s]
    if campaign is not None and swept:
        if failure.text:
            print(f"PARTIAL: {failure.text}\n")
        print("\n".join(sweep_report.text(swept, options.target)), flush=True)
        config = test_config(campaign, reconfigured=not options.no_reconfigure, partial=failure.text)
        files = {
            "sweep.json": encode(sweep_report.document(swept, config, options.target)),
            "sweep.png": charts.png(sweep_report.chart(swept, options.target)),
        }
        with failure:
            publish(options.output, files)
    failure.raise_it()


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
