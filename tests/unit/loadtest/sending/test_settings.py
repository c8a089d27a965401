from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from loadtest.failures import BadInput
from loadtest.sending.settings import Settings, add_options

HOST = "http://10.0.0.1:8000/"


def read(*arguments: str, host: str | None = HOST, tags: list[str] | None = None) -> Settings:
    parser = argparse.ArgumentParser()
    add_options(parser)
    options: Any = parser.parse_args(arguments)
    options.tags = tags
    return Settings.read(options, host)


def test_the_host_names_the_other_ports() -> None:
    settings = read()
    assert (settings.host, settings.grpc) == ("http://10.0.0.1:8000", "10.0.0.1:8001")
    assert (settings.gateway_url, settings.protocols) == ("http://10.0.0.1:8080", ("http-generate",))
    assert not settings.schedule.is_open_loop


def test_what_is_given_counts() -> None:
    settings = read("--grpc", "b:1", "--gateway-url", "https://c/", "--arrivals", "poisson", "--rate", "3.5")
    assert (settings.grpc, settings.gateway_url, settings.schedule.rate) == ("b:1", "https://c", 3.5)
    assert settings.schedule.is_open_loop


def test_tags_may_name_several_protocols() -> None:
    assert read(tags=["openai", "grpc-unary"]).protocols == ("grpc-unary", "openai")


def test_the_web_page_may_send_texts() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    options: Any = parser.parse_args([])
    vars(options).update(tags=None, protocol="", mix_seed="", requests="7", rate="0", request_timeout="5", grpc="")
    settings = Settings.read(options, HOST)
    assert (settings.schedule.requests, settings.schedule.mix_seed, settings.timeout_s) == (7, None, 5.0)
    options.mix_seed = "x"
    with pytest.raises(BadInput, match="--mix-seed: is 'x'; must be a whole number"):
        Settings.read(options, HOST)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--requests", "-1"], "--requests: is -1; must be 0 or more"),
        (["--mix-seed", "-1"], "--mix-seed: is -1; must be 0 or more"),
        (["--request-timeout", "0"], "--request-timeout: is 0; must be seconds, more than 0"),
        (["--request-timeout", "inf"], "--request-timeout: is inf"),
        (["--arrivals", "poisson"], "--rate: is 0; --arrivals poisson needs requests a second"),
        (["--arrivals", "bursty", "--rate", "nan"], "--rate: is nan"),
        (["--rate", "3"], "--rate: is 3; is for --arrivals poisson and bursty only"),
        (["--arrivals", "trace"], "--trace: is ''; --arrivals trace needs a file"),
        (["--trace", "a.jsonl"], "--trace: is 'a.jsonl'; --arrivals trace needs a file, and nothing else takes one"),
        (["--arrivals", "poisson", "--rate", "3", "--shape", "ramp"], "--shape: is 'ramp'; .* must be constant"),
        (["--shape-levels", "1"], "--shape-levels: is 1; must be 2 or more"),
        (["--shape-from", "0"], "--shape-from: is 0; must be 1 or more"),
        (["--shape-time", "-3"], "--shape-time: is -3"),
        (["--grpc", "here"], "--grpc: is 'here'; must be host:port"),
        (["--grpc", "here:x"], "--grpc: is 'here:x'; must be host:port"),
        (["--gateway-url", "here"], "--gateway-url: is 'here'; must be an address"),
        (["--records", "/no/such/folder/records"], "--records: is '/no/such/folder/records'; its folder must be there"),
    ],
)
def test_a_bad_value_is_refused_by_its_option(arguments: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read(*arguments)


@pytest.mark.parametrize("host", [None, "", "localhost:8000", "grpc://localhost:8001", "http://localhost:x"])
def test_the_host_must_be_an_http_address(host: str | None) -> None:
    with pytest.raises(BadInput, match="--host: "):
        read(host=host)


def test_tags_are_checked() -> None:
    with pytest.raises(BadInput, match="--tags: is 'smtp'; must be of grpc-stream, grpc-unary"):
        read(tags=["smtp"])
    with pytest.raises(BadInput, match="--protocol: is 'openai' beside --tags"):
        read("--protocol", "openai", tags=["openai"])


def test_records_may_go_into_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read("--records", "records.jsonl").records == "records.jsonl"


def test_only_some_protocols_reach_another_model() -> None:
    assert read("--model", "flux_dev", "--protocol", "grpc-stream").model == "flux_dev"
    with pytest.raises(BadInput, match="--model: is 'flux_dev'; openai always reaches flux"):
        read("--model", "flux_dev", tags=["grpc-stream", "openai"])
