"""What is compiled while the engine goes on, in a process of its own.

In the engine's process it would be unsound: while torch.compile traces anywhere in a process, it changes
`torch.nn.Module` for all of its threads, and calls of the engine's thread fail.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fluxengine.compile.block_kind import BlockKind, Form
from fluxengine.size import Size

log = logging.getLogger("fluxengine")

MOST_KINDS = 16
"""What is compiled for a kind of steps stays in memory."""

TIMEOUT_S = 3600
NICENESS = 19
"""The process gets what the engine leaves of the CPU."""


@dataclass(frozen=True, slots=True)
class StepKind:
    """Steps that call the same compiled blocks, in whatever batches."""

    size: Size
    rank: int = 0
    """Of the LoRAs on the blocks' layers; 0: none"""

    def __str__(self) -> str:
        height, width = self.size
        return f"{width}x{height}" + (f" with LoRAs of rank {self.rank}" if self.rank else "")


class BackgroundCompilation:
    """One kind of steps at a time. A kind that cannot be compiled stays as it is."""

    def __init__(self, ready: Callable[[StepKind], object]) -> None:
        """`ready` is called, by another thread, once all functions of a kind are where they belong."""
        self._ready = ready
        self._wanted: set[StepKind] = set()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="compilation")
        self._changed = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def want(self, steps: StepKind, forms: Mapping[BlockKind, Sequence[Form]]) -> None:
        """May be called for each step of that kind. `forms` has those of all kinds of blocks."""
        if steps not in self._wanted and len(self._wanted) < MOST_KINDS:
            self._wanted.add(steps)
            self._executor.submit(self._compile, steps, forms)

    def close(self) -> None:
        """Ends what is being compiled."""
        with self._changed:
            self._closed = True
            if self._process:
                self._process.kill()
        self._executor.shutdown(cancel_futures=True)

    def _compile(self, steps: StepKind, forms: Mapping[BlockKind, Sequence[Form]]) -> None:
        log.info("%s is used often and is being compiled", steps)
        try:
            with TemporaryDirectory(prefix="flux-compile-") as folder:
                order = Path(folder) / "order"
                torch.save([(kind.recipe(), of_kind) for kind, of_kind in forms.items()], order)
                code = self._run(order)
            missing = [form for kind, of_kind in forms.items() for form in of_kind if not kind.find(form)]
        except Exception:
            log.exception("%s cannot be compiled and stays as it is", steps)
            return
        if missing:
            if not self._closed:
                log.warning("%s cannot be compiled and stays as it is: the process ended with %d", steps, code)
            return
        self._ready(steps)
        log.info("%s runs compiled from now on", steps)

    def _run(self, order: Path) -> int:
        python = sys.executable or shutil.which("python3") or "python3"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}
        command = [python, "-m", "fluxengine.compile.process", str(order)]
        with self._changed:
            if self._closed:
                return 0
            # Its end of the pipe closes when this process dies, however that happens.
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        with self._process as process:
            try:
                return process.wait(TIMEOUT_S)
            finally:
                process.kill()
