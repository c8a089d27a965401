"""The names of files."""

from __future__ import annotations

import pytest

from fluxclient.cli.picture_files import safe_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a cat", "a-cat"),
        ("  A cat, on: /a mat/… ", "A-cat-on-a-mat"),
        ("../../etc/passwd", "etc-passwd"),
        ("-rf *", "rf"),
        ("drei Äpfel", "drei-Äpfel"),
        ("リンゴ", "リンゴ"),
        ("…", "picture"),
        ("", "picture"),
        ("a\0b\nc\ud800d", "a-b-c-d"),
        ("x" * 500, "x" * 100),
    ],
)
def test_safe_name(text: str, name: str) -> None:
    assert safe_name(text) == name


def test_long_names_end_at_a_character() -> None:
    name = safe_name("ä" * 99 + "b" + "字" * 99)
    assert len(name.encode()) <= 100 and set(name) == {"ä"}
