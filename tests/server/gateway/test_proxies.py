"""Every way to ask for a picture, through each proxy of README.md, with the files of deploy/proxy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.server import wire
from tests.server.proxies import FILES, Call, Proxied, proxied, silent
from tests.server.proxy_calls import LEAVE, STREAMS, UNARY
from tests.server.servers import Measured, until, until_idle
from tests.unit.client.gateway.running import running
from tools.triton.server import TritonServer

PATIENT_S, IMPATIENT_S = 60, 2
"""For the files' own limit."""
SILENT_S = 3
GIVEN_UP = ("flux_dropped_images_total", {"cause": "cancelled"})


@pytest.fixture(scope="module")
def gateway(triton: TritonServer) -> Iterator[str]:
    with running(url=triton.urls.grpc) as url:
        yield url


@pytest.mark.parametrize("name", FILES)
def test_uploads_and_silent_requests_come_through(
    name: str, triton: TritonServer, gateway: str, tmp_path: Path
) -> None:
    """With the limit cut short nothing does: it is what decides, and it is set for all of them."""

    def answered(patience_s: int, silence: Callable[[list[Call]], None]) -> list[str]:
        with proxied(name, triton, gateway, tmp_path / f"{patience_s}", patience_s) as through:
            calls = _begun(through)
            with silent(triton):
                silence(calls)
            _end(calls)
            return [call.name for call in calls if call.answered]

    def in_the_middle(calls: list[Call]) -> None:
        assert all(call.is_alive() for call in calls), [call.error for call in calls]
        time.sleep(SILENT_S)  # the silence itself

    assert answered(PATIENT_S, in_the_middle) == [ask.__name__ for ask in (*UNARY, *STREAMS)]
    assert answered(IMPATIENT_S, _end) == []
    until_idle(triton)  # some of what was cut is drawn all the same


@pytest.mark.parametrize("name", FILES)
def test_who_leaves_is_noticed(name: str, triton: TritonServer, gateway: str, tmp_path: Path) -> None:
    with proxied(name, triton, gateway, tmp_path / "proxy", PATIENT_S) as through:
        before = until_idle(triton)
        for leave in LEAVE:
            leave(through, lambda: until(lambda: Measured(triton).total("flux_jobs_running"), "a picture on its way"))
            after = until_idle(triton)
            assert after.total(*GIVEN_UP) == before.total(*GIVEN_UP) + 1, leave.__name__
            assert after.total("flux_images_total") == before.total("flux_images_total"), leave.__name__
            before = after


@pytest.mark.parametrize("name", FILES)
def test_the_gateway_learns_who_calls(
    name: str, triton: TritonServer, gateway: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And not from the caller."""
    caplog.set_level("INFO", "fluxclient.gateway")
    said = {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https"}
    body = {"prompt": "a red square", "num_inference_steps": 1, "response_format": "url"}
    with (
        proxied(name, triton, gateway, tmp_path / "proxy", PATIENT_S) as through,
        httpx2.Client(transport=httpx2.HTTPTransport(local_address="127.0.0.2"), timeout=wire.ANSWER_S) as client,
    ):
        answer = client.post(f"http://{through.gateway}/v1/images/generations", json=body, headers=said)
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"][0]["url"].startswith(f"http://{through.gateway}/")
        until(lambda: "/v1/images/generations 200" in caplog.text, "the line of the log")
        assert "caller='127.0.0.2'" in caplog.text


def _begun(through: Proxied) -> list[Call]:
    """All kinds of calls at once; streams have begun to be answered, unless they were cut before."""
    unary, streams = ([Call(ask, through) for ask in asks] for asks in (UNARY, STREAMS))
    for call in (*unary, *streams):
        call.start()
    for call in streams:
        until(lambda call=call: call.begun.is_set() or not call.is_alive(), f"{call.name} to begin")  # type: ignore[misc]
    return [*unary, *streams]


def _end(calls: list[Call]) -> None:
    until(lambda: not any(call.is_alive() for call in calls), "the end of all calls")
