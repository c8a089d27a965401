"""Whether a change between two results.json is real, or may be chance."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from loadtest.failures import BadInput
from loadtest.lab.intervals import Change, independent_change
from loadtest.reporting.document import read_document
from loadtest.reporting.report import COMPARED, NAMES
from loadtest.reporting.table import number, table
from tools.triton.api import JSON

SAME = ("model", "protocol", "mix", "requests", "concurrent", "rate", "seed", "slo", "machine")
"""What must be equal for figures to be held against each other. Of the SLO, what is measured may differ."""
MORE_IS_BETTER = ("throughput_per_s", "goodput_per_s")


def compare(options: argparse.Namespace) -> None:
    """Prints a table for each strategy that both have. Raises BadInput."""
    print("\n".join(compared(read_document(options.before), read_document(options.after))))


def compared(before: JSON, after: JSON) -> Iterator[str]:
    runs, others = _runs(before), _runs(after)
    common = [name for name in runs if name in others]
    if not common:
        had, has = ", ".join(runs), ", ".join(others)
        raise BadInput(f"the two files have no strategy in common: one has {had}, the other {has}")
    for which, found in (("first", before), ("second", after)):
        if found["test_config"]["partial"]:
            yield f"The {which} is partial: {found['test_config']['partial']}"
    for key in SAME:
        one, other = (_setting(found["test_config"], key) for found in (before, after))
        if one != other:
            yield f"Not the same test: {key} is {one} and {other}. A change may come from that."
    for name in common:
        yield f"\n{name}:\n"
        yield from table(list(_rows(runs[name], others[name])))


def verdict(figure: str, change: Change | None) -> str:
    if change is None:
        return "not measured"
    if change.is_real is None:
        return "cannot be told without repeats"
    if not change.is_real:
        return "may be chance"
    better = (change.percent > 0) == (figure in MORE_IS_BETTER)
    return f"real: {'better' if better else 'worse'}"


def _runs(found: JSON) -> dict[str, list[JSON]]:
    """By strategy."""
    return {of["strategy"]: of["runs"] for of in found["performance_results"]}


def _rows(before: list[JSON], after: list[JSON]) -> Iterator[list[str]]:
    yield ["figure", "before", "after", "change (95 % interval)", "verdict"]
    for figure in COMPARED:
        one, other = _values(before, figure), _values(after, figure)
        change = independent_change(other, one)
        digits = 2 if figure in MORE_IS_BETTER else 0
        means = [number(sum(values) / len(values) if values else None, digits) for values in (one, other)]
        yield [NAMES[figure] + (" /s" if digits else " ms"), *means, str(change or "–"), verdict(figure, change)]


def _values(runs: list[JSON], figure: str) -> list[float]:
    return [run["figures"][figure] for run in runs if run["problem"] is None and run["figures"][figure] is not None]


def _setting(config: JSON, key: str) -> object:
    value = config[key]
    return {name: its for name, its in value.items() if name != "alone"} if key == "slo" else value
