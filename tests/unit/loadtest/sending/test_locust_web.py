"""Locust with its web page: several tests in one process, each with its own options and its own outcome."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.unit.loadtest.sending.locust_process import finish_locust, free_port, records_in, start_process
from tests.unit.loadtest.server.stub_server import StubServer

GOOD = {"requests": "12", "mix": "uniform"}
BAD = {"requests": "12", "mix": "unifrom"}
REFUSED = "mix: there is no 'unifrom'"


def call(url: str, form: dict[str, str] | None = None) -> Any:
    body = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(url, body, timeout=10) as response:
        return json.loads(response.read())


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        with suppress(OSError):  # until the page is there
            if condition():
                return
        time.sleep(0.1)
    pytest.fail(f"not within 30 s: {what}")


@pytest.mark.parametrize("processes", [(), ("--processes", "2")], ids=["one", "two"])
@pytest.mark.parametrize(("forms", "code"), [((BAD, GOOD), 0), ((GOOD, BAD), 2)], ids=["bad first", "good first"])
def test_the_exit_code_is_that_of_the_last_test(
    tmp_path: Path, forms: tuple[dict[str, str], ...], code: int, processes: tuple[str, ...]
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def state() -> str:
        return str(call(f"{url}/stats/requests")["state"])

    with StubServer(service_s=0.01, servers=4) as server:
        web = ("--web-host", "127.0.0.1", "--web-port", str(port), "--host", server.url)
        process = start_process(tmp_path, *web, *records_in(tmp_path), *processes)
        workers = int(bool(processes)) * 2
        try:
            wait_until(lambda: len(call(f"{url}/stats/requests").get("workers", ())) == workers, "the workers")
            for form in forms:
                told = call(f"{url}/swarm", {"user_count": "4", "spawn_rate": "4", "host": server.url, **form})
                assert told["success"], told
                if form is BAD:
                    wait_until(lambda: REFUSED in json.dumps(call(f"{url}/logs")), "the refusal")
                else:
                    wait_until(lambda: len(server.served) == 12, "all requests")
                wait_until(lambda: state() == "stopped", "the end of the test")
            os.killpg(process.pid, signal.SIGINT)
            outcome = finish_locust(process, tmp_path, timeout_s=30)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert outcome.code == code, outcome.output
    assert len(server.served) == 12
    assert (outcome.partial, len(outcome.records)) == ("", 12)
