from __future__ import annotations

from loadtest.reporting.table import table


def test_tables_are_even() -> None:
    assert list(table([["a", "bb"], ["ccc", "1"]])) == ["| a   | bb |", "|-----|---:|", "| ccc |  1 |"]
