"""Sizes that are compiled while the engine goes on, in a process of its own.

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
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fluxengine.block_kind import BlockKind, Shape
from fluxengine.config import Size

log = logging.getLogger("fluxengine")

MOST_SIZES = 16
"""What is compiled for a size stays in memory."""

TIMEOUT_S = 3600
NICENESS = 19
"""The process gets what the engine leaves of the CPU."""


class BackgroundCompilation:
    """One size at a time. A size that cannot be compiled stays as it is."""

    def __init__(self, ready: Callable[[Size], object]) -> None:
        """`ready` is called, by another thread, once all functions of a size are where they belong."""
        self._ready = ready
        self._wanted: set[Size] = set()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="compilation")
        self._changed = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def want(self, size: Size, shapes: Mapping[BlockKind, Sequence[Shape]]) -> None:
        """May be called for each step of that size. `shapes` has the inputs of all kinds of blocks."""
        if size not in self._wanted and len(self._wanted) < MOST_SIZES:
            self._wanted.add(size)
            self._executor.submit(self._compile, size, shapes)

    def close(self) -> None:
        """Ends what is being compiled."""
        with self._changed:
            self._closed = True
            if self._process:
                self._process.kill()
        self._executor.shutdown(cancel_futures=True)

    def _compile(self, size: Size, shapes: Mapping[BlockKind, Sequence[Shape]]) -> None:
        what = f"{size[1]}x{size[0]}"
        log.info("%s is used often and is being compiled", what)
        try:
            with TemporaryDirectory(prefix="flux-compile-") as folder:
                order = Path(folder) / "order"
                torch.save([(kind.recipe(), of_kind) for kind, of_kind in shapes.items()], order)
                code = self._run(order)
            missing = [shape for kind, of_kind in shapes.items() for shape in of_kind if not kind.find(shape)]
        except Exception:
            log.exception("%s cannot be compiled and stays as it is", what)
            return
        if missing:
            if not self._closed:
                log.warning("%s cannot be compiled and stays as it is: the process ended with %d", what, code)
            return
        self._ready(size)
        log.info("%s runs compiled from now on", what)

    def _run(self, order: Path) -> int:
        python = sys.executable or shutil.which("python3") or "python3"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"}
        command = [python, "-m", "fluxengine.compile_process", str(order)]
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
