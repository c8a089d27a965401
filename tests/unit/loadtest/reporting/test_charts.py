from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image

from loadtest.reporting import charts
from tests.unit.loadtest.lab.measured import USE, measured, measurement, record, report, two_strategies


def test_charts_are_pictures_of_all_strategies() -> None:
    for figure in (charts.comparison(two_strategies()), charts.distribution(two_strategies())):
        picture = Image.open(io.BytesIO(charts.png(figure)))
        picture.load()
        assert picture.width > 800
    axes = charts.comparison(two_strategies()).axes
    assert [of.get_title() for of in axes] == [
        "Throughput (95 % intervals)",
        "Response times",
        "Efficiency score",
        "Against the best of this report",
    ]


def test_charts_of_a_strategy_without_an_answer() -> None:
    silent = measurement([], use=replace(USE, engine=None))
    dead = report(measured([replace(silent, records=[record(error="INTERNAL")])]))
    assert charts.png(charts.comparison(dead)).startswith(b"\x89PNG")
    assert charts.png(charts.distribution(dead)).startswith(b"\x89PNG")
