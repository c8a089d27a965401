from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.lab.command_line import parse
from loadtest.server.target import parse_target


def test_the_defaults_of_the_contract() -> None:
    options = parse([])
    assert (options.command, options.url) == ("run", "http://localhost:8000")
    assert (options.requests, options.concurrent, options.strategies) == (20, 3, ["baseline"])
    assert not (options.plot or options.save)


def test_the_control_key_is_an_option_or_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_CONTROL_KEY", raising=False)
    assert parse([]).control_key is None
    monkeypatch.setenv("TRITON_CONTROL_KEY", "from the variable")
    assert parse(["sweep"]).control_key == "from the variable"
    assert parse(["--control-key", "given"]).control_key == "given"
    assert "given" not in repr(parse_target("localhost", control_key="given"))


def test_strategies_may_be_given_with_commas_and_blanks() -> None:
    assert parse(["--strategies", "baseline,async", "batch"]).strategies == ["baseline", "async", "batch"]
    assert parse(["--no-reconfigure"]).strategies == []
    assert parse(["compare", "a.json", "b.json"]).before == Path("a.json")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--requests", "0"], "--requests: is '0'; must be an integer of at least 1"),
        (["--concurrent", "x"], "--concurrent: is 'x'; must be an integer"),
        (["--rate", "0"], "--rate: is '0'; must be a number of more than 0"),
        (["--rate", "nan"], "--rate: is 'nan'; must be a number of more than 0"),
        (["--slo-scale", "0.5"], "--slo-scale: is '0.5'; must be a number of at least 1"),
        (["--min-success", "99"], "--min-success: is '99'; must be a share from 0 to 1"),
        (["--protocol", "carrier-pigeon"], "--protocol: invalid choice: 'carrier-pigeon'"),
        (["sweep", "--target", "2"], "--target: is '2'; must be a share"),
    ],
)
def test_a_bad_option_is_named_with_what_is_allowed(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        parse(arguments)
    assert raised.value.code == 2
    assert problem in capsys.readouterr().err
