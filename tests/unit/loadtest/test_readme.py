"""loadtest/README.md names what is there."""

from __future__ import annotations

import re

from tools.triton.installation import PROJECT


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(loadtest/[\w./]+)`", (PROJECT / "loadtest/README.md").read_text()))
    assert len(named) > 5
    assert [name for name in sorted(named) if not (PROJECT / name).exists()] == []
