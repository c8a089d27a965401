"""The processes that this server is measured against."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
MODEL = PROJECT / "model_repository" / "flux" / "1" / "flux-tiny"


def environment() -> dict[str, str]:
    # As model.py sets it for the server: the peers shall not lose by their workers' spinning.
    spinning = {"GOMP_SPINCOUNT": "6000"}
    return {**spinning, **os.environ, "PYTHONPATH": str(PROJECT / "model_repository" / "flux" / "1")}


@contextlib.contextmanager
def global_lock(options: Sequence[str]) -> Iterator[str]:
    """The URL of a server of tools.bench.global_lock, for as long as the context lasts."""
    command = [sys.executable, "-m", "tools.bench.global_lock", *options]
    with subprocess.Popen(command, cwd=PROJECT, env=environment(), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().decode().strip()
            if not port:
                raise RuntimeError("the server with the global lock did not start; its error is above")
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


def run_module(module: str, *arguments: str) -> str:
    """What `python -m module` prints."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=PROJECT, env=environment(), check=True, stdout=subprocess.PIPE
    ).stdout.decode()
