"""The command as a whole: its help."""

from __future__ import annotations

import pytest

from fluxclient.cli.app import main


@pytest.mark.parametrize("command", [[], ["generate"], ["batch"], ["status"], ["gateway"]])
def test_help_tells_the_exit_codes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    told = capsys.readouterr().out
    assert "Exit codes" in told and "130" in told


def test_help_comes_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("generate", "batch", "status", "gateway"))
