"""Locust as a process of its own, as people run it: in a test's process its monkey patching would reach every test."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCUSTFILE = Path(__file__).parents[4] / "loadtest" / "locustfile.py"


@dataclass(frozen=True)
class Outcome:
    code: int
    output: str
    records: list[dict[str, Any]]
    """In the order of their ends."""
    partial: str
    """Why they are not all that there should be; empty if they are."""

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [record for record in self.records if not record["ok"]]


def start_locust(folder: Path, host: str, *options: str, users: int = 4) -> subprocess.Popen[str]:
    """Writes its records to `folder`, and runs there."""
    load = ("--host", host, "--users", str(users), "--spawn-rate", str(users))
    return start_process(folder, "--headless", "--only-summary", *load, *records_in(folder), *options)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def records_in(folder: Path) -> tuple[str, str]:
    return "--records", str(folder / "records.jsonl")


def start_process(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Locust with these options alone; in a session of its own, as at a terminal.

    A master gets a port of its own, as the default one would bring it the workers of tests that run at the same time.
    """
    if "--processes" in options:
        port = str(free_port())
        options = (*options, "--master-bind-port", port, "--master-port", port)
    return subprocess.Popen(
        [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *options],
        cwd=folder,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish_locust(process: subprocess.Popen[str], folder: Path, timeout_s: float = 120) -> Outcome:
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
        process.wait()
    file, marker = folder / "records.jsonl", folder / "records.jsonl.partial"
    lines = file.read_text().splitlines() if file.exists() else []
    partial = marker.read_text().strip() if marker.exists() else ""
    return Outcome(process.returncode, output, [json.loads(line) for line in lines], partial)


def run_locust(folder: Path, host: str, *options: str, users: int = 4) -> Outcome:
    return finish_locust(start_locust(folder, host, *options, users=users), folder)
