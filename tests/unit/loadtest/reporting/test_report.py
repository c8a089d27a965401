"""The table, the JSON with its schema, CSV, HTML and pictures."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from loadtest.failures import BadInput, Broken
from loadtest.reporting import charts
from loadtest.reporting.document import document, read_document
from loadtest.reporting.files import encode, prepare_folder, save, table_csv
from loadtest.reporting.formats import RESULTS, fault
from loadtest.reporting.html_report import html
from loadtest.reporting.report import table
from loadtest.server.strategies import STRATEGIES
from tests.unit.loadtest.measured import USE, measured, of, report, run, sample, two_strategies


def test_the_document_keeps_to_its_schema_and_has_its_four_keys(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(encode(document(two_strategies())))
    found = read_document(tmp_path / "results.json")
    assert set(found) == {"test_config", "performance_results", "system_metrics", "detailed_results"}
    assert found["test_config"]["strategies"] == list(STRATEGIES)
    assert [entry["strategy"] for entry in found["performance_results"]] == ["baseline", "async"]
    best = of(found, "async")
    assert best["best"] is True
    assert best["change_against_baseline"]["throughput_per_s"]["percent"] == pytest.approx(100)
    assert of(found, "baseline")["change_against_baseline"] == {}
    assert best["use"]["utilisation_of"] == "server's CPU"
    assert [each["repeat"] for each in best["runs"]] == [1, 2, 3]
    rounds = [(strategy, repeat) for strategy in ("baseline", "async") for repeat in (1, 2, 3)]
    assert [(each["strategy"], each["repeat"]) for each in found["system_metrics"]] == rounds
    assert found["system_metrics"][0]["at"] == 1.5
    requests = [(each["strategy"], each["repeat"]) for each in found["detailed_results"]]
    assert requests == [each for each in rounds for _ in range(4)]
    assert found["detailed_results"][0]["class"] == "picture"


def test_a_document_of_failures_and_of_a_partial_run_keeps_to_it_as_well() -> None:
    broken = replace(run([]), samples=[sample(error="INTERNAL")], problem="the server is not ready any more")
    text = encode(document(report(measured([broken]), partial="the server died")))
    found = json.loads(text)
    assert fault(found, RESULTS) == ""
    assert found["test_config"]["partial"] == "the server died"
    assert of(found, "baseline")["runs"][0]["problem"] == "the server is not ready any more"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "schema_version is None; must be 1 or 2"),
        ('{"test_config": {"schema_version": 3}}', "schema_version is 3; must be 1 or 2"),
        ('{"test_config": {"schema_version": 2}}', "is a required property"),
        ('{"test_config": {"schema_version": 1}}', "is no whole document of version 1: KeyError: 'strategies'"),
        ('{"test_config": {"schema_version": 1, "strategies": 5}}', "is no whole document of version 1: TypeError"),
    ],
)
def test_another_file_is_refused(content: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(BadInput) as raised:
        read_document(file)
    assert problem in str(raised.value)


def test_the_text_tells_best_gain_and_advice() -> None:
    text = two_strategies().text()
    assert "Best: async, with an efficiency score of 0.96; against baseline: throughput +100.0 %" in text
    assert "Changes against baseline" in text
    assert "Advice on baseline:" in text
    assert "no GPU on this machine" in text
    assert "Efficiency = 0.5 × throughput score" in text
    assert "PARTIAL" not in text
    assert two_strategies(partial="interrupted").text().startswith("PARTIAL: interrupted\n")


def test_a_gain_that_may_be_chance_is_called_so() -> None:
    base = [run([second], repeat=n) for n, second in enumerate((1.0, 2.0, 1.5))]
    other = [run([second], repeat=n) for n, second in enumerate((0.9, 2.1, 1.2))]
    assert "may be chance" in report(measured(base), measured(other, STRATEGIES["async"])).verdict()


def test_one_strategy_has_nothing_to_be_compared_with() -> None:
    assert report(measured([run([1.0])])).verdict() == "Only baseline was measured; --strategies all compares."


def test_tables_are_even() -> None:
    assert list(table([["a", "bb"], ["ccc", "1"]])) == ["| a   | bb |", "|-----|---:|", "| ccc |  1 |"]


def test_csv_has_a_line_for_each_run() -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(two_strategies()).decode())))
    assert [(row["strategy"], row["repeat"]) for row in rows] == [
        (name, repeat) for name in ("baseline", "async") for repeat in "123"
    ]
    assert float(rows[0]["mean_ms"]) == pytest.approx(1150)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]


def test_html_needs_nothing_from_outside_and_escapes_what_servers_say() -> None:
    bad = measured([replace(run([]), samples=[sample(error="INTERNAL"), sample(0.5)])])
    page = html(report(bad, partial="<i>died</i>"), "1000 ms", {"Comparison": b"\x89PNG"})
    links = _Links()
    links.feed(page)
    assert links.found == ["data:image/png;base64,iVBORw=="]
    assert not re.search(r"url\(|@import|<script|https?://(?!localhost)", page)
    assert "<b>happened</b>" not in page
    assert "&lt;i&gt;died&lt;/i&gt;" in page


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
    dead = report(measured([replace(run([], use=replace(USE, engine=None)), samples=[sample(error="INTERNAL")])]))
    assert charts.png(charts.comparison(dead)).startswith(b"\x89PNG")
    assert charts.png(charts.distribution(dead)).startswith(b"\x89PNG")


def test_saving_replaces_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("old")

    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(Broken, match=r"a\.json was not written: No space left on device"):
            save(tmp_path, {"a.json": b"new"})
    assert (tmp_path / "a.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert save(tmp_path, {"a.json": b"new"}) == [tmp_path / "a.json"]
    assert (tmp_path / "a.json").read_text() == "new"


def test_a_full_disk_is_noticed_before_anything_is_measured() -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("no /dev/full here")
    with pytest.raises(BadInput, match="--output /dev/full"):
        prepare_folder(Path("/dev/full"))
