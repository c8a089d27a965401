"""Locust's master with workers, and what becomes of a test when some of them are lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from loadtest.traffic.schedule import Schedule
from tests.unit.loadtest.sending.locust_process import finish_locust, free_port, run_locust, start_locust, start_process
from tests.unit.loadtest.server.stub_server import StubServer

LOST = "1 of the workers lost, and their requests with them"


def start_master(folder: Path, server: StubServer, port: int, *options: str) -> subprocess.Popen[str]:
    bind = ("--master", "--expect-workers", "2", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port))
    return start_locust(folder, server.url, *bind, *options)


def start_worker(folder: Path, port: int) -> subprocess.Popen[str]:
    """It is told everything by its master."""
    return start_process(folder, "--worker", "--master-host", "127.0.0.1", "--master-port", str(port))


def wait_until_there(file: Path) -> None:
    deadline_s = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def test_workers_send_the_whole_schedule(tmp_path: Path) -> None:
    schedule = Schedule(mix="bursty", mix_seed=None, requests=31, arrivals="closed", rate=0.0, trace="")
    expected = [json.dumps(timed.order.inputs(timeout_s=120), sort_keys=True) for timed in schedule.share()]
    with StubServer(service_s=0.005, servers=4) as server:
        outcome = run_locust(tmp_path, server.url, "--requests", "31", "--mix", "bursty", "--processes", "2")
        assert (outcome.code, len(outcome.records), outcome.partial) == (0, 31, ""), outcome.output
        bodies = [json.dumps(served.body, sort_keys=True) for served in server.served]
    assert sorted(bodies) == sorted(expected)
    assert len(set(bodies)) == 31


def test_a_master_and_workers_that_came_by_themselves(tmp_path: Path) -> None:
    """One of them is killed in the middle: the other sends its own share, and no one takes that for the whole."""
    port = free_port()
    with StubServer(service_s=0.05, servers=4) as server:
        master = start_master(tmp_path, server, port, "--requests", "200")
        kept, lost = (start_worker(tmp_path, port) for _ in range(2))
        server.wait_until_served(20)
        lost.kill()
        outcome = finish_locust(master, tmp_path)
        told, _ = kept.communicate(timeout=30)
        lost.communicate(timeout=30)
    assert outcome.code == 2, outcome.output
    assert (outcome.partial, outcome.failures) == (LOST, [])
    assert 100 <= len(outcome.records) < 200
    assert outcome.output.rstrip().endswith(f"PARTIAL: {LOST}")
    assert kept.returncode == 0, told


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_processes_that_are_lost_end_the_test(tmp_path: Path, number: signal.Signals) -> None:
    """Locust by itself would stop, and wait for ever for others to come."""
    with StubServer(service_s=0.05, servers=4) as server:
        process = start_locust(tmp_path, server.url, "--requests", "100000", "--processes", "2")
        server.wait_until_served(20)
        for worker in psutil.Process(process.pid).children():
            worker.send_signal(number)
        outcome = finish_locust(process, tmp_path, timeout_s=60)
        served = len(server.served)
    assert outcome.code == 2, outcome.output
    assert "of the workers lost" in outcome.partial
    assert 10 <= len(outcome.records) <= served
    if number == signal.SIGTERM:
        assert len(outcome.records) == served, "a worker that can still do so ends what is in flight"


def test_ctrl_c_at_a_terminal_reaches_all_and_ends_what_is_in_flight(tmp_path: Path) -> None:
    with StubServer(service_s=0.3, servers=4) as server:
        process = start_locust(tmp_path, server.url, "--requests", "100000", "--processes", "2")
        server.wait_until_served(10)
        os.killpg(process.pid, signal.SIGINT)
        outcome = finish_locust(process, tmp_path, timeout_s=60)
        served = len(server.served)
    assert (outcome.code, outcome.failures) == (0, []), outcome.output
    assert len(outcome.records) == served >= 10
    assert outcome.partial == f"stopped after {served} of 100000 requests"


def test_an_end_at_the_very_beginning_waits_for_nobody(tmp_path: Path) -> None:
    """Workers have been told their share, but perhaps not to begin. The code is Locust's, which may be starting."""
    with StubServer(service_s=0.05, servers=4) as server:
        process = start_locust(tmp_path, server.url, "--requests", "100000", "--processes", "2")
        wait_until_there(tmp_path / "records.jsonl")
        process.send_signal(signal.SIGINT)
        outcome = finish_locust(process, tmp_path, timeout_s=30)
        assert len(outcome.records) == len(server.served), outcome.output
