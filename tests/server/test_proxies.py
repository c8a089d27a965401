"""Every way to ask for a picture, through each proxy of README.md, with the files of deploy/proxy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.server.proxies import FILES, Call, Proxied, proxied, silent
from tests.server.proxy_calls import STREAMS, UNARY
from tests.server.servers import until, until_idle
from tests.unit.client.gateway.running import running
from tools.triton.server import TritonServer

PATIENT_S, IMPATIENT_S = 60, 2
"""For the files' own limit."""
SILENT_S = 3


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
