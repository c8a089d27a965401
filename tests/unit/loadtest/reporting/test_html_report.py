from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from loadtest.reporting.html_report import html
from tests.unit.loadtest.lab.measured import measured, measurement, record, report


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]


def test_html_needs_nothing_from_outside_and_escapes_what_servers_say() -> None:
    bad = measured([replace(measurement([]), records=[record(error="INTERNAL"), record(0.5)])])
    page = html(report(bad, partial="<i>died</i>"), "1000 ms", {"Comparison": b"\x89PNG"})
    links = _Links()
    links.feed(page)
    assert links.found == ["data:image/png;base64,iVBORw=="]
    assert not re.search(r"url\(|@import|<script|https?://(?!localhost)", page)
    assert "<b>happened</b>" not in page
    assert "&lt;i&gt;died&lt;/i&gt;" in page
