"""Locust as a process of its own, as people run it: in a test's process its monkey patching would reach every test."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCUSTFILE = Path(__file__).parents[3] / "loadtest" / "locustfile.py"


@dataclass(frozen=True)
class Outcome:
    code: int
    output: str
    records: list[dict[str, Any]]
    """In the order of their ends."""

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [record for record in self.records if not record["ok"]]


def start_locust(folder: Path, host: str, *options: str, users: int = 4) -> subprocess.Popen[str]:
    """Writes its records to `folder`, and runs there."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", "--host", host]
    command += ["--users", str(users), "--spawn-rate", str(users), "--records", str(folder / "records.jsonl")]
    return subprocess.Popen(
        [*command, *options],
        cwd=folder,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish_locust(process: subprocess.Popen[str], folder: Path, timeout_s: float = 120) -> Outcome:
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    file = folder / "records.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return Outcome(process.returncode, output, [json.loads(line) for line in lines])


def run_locust(folder: Path, host: str, *options: str, users: int = 4) -> Outcome:
    return finish_locust(start_locust(folder, host, *options, users=users), folder)
