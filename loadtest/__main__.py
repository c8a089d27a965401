"""`python -m loadtest`: see --help."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from loadtest.commands import run, sweep
from loadtest.failures import Interrupted, LabError
from loadtest.lab.command_line import parse
from loadtest.reporting.compare import compare


class _Signals:
    """As a context manager: the first signal ends the measurement in order, and until that is done, none does more."""

    def __init__(self) -> None:
        self._seen = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._former[number] = signal.signal(number, self._end)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._seen:
            print(f"{name}: stopping already; the server is put back as it was", file=sys.stderr, flush=True)
            return
        self._seen = True
        raise Interrupted(f"interrupted by {name}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(sys.argv[1:] if arguments is None else arguments)
    commands = {"run": run, "sweep": sweep, "compare": compare}
    with _Signals():
        try:
            commands[options.command](options)
        except (LabError, Interrupted) as error:
            print(f"loadtest: {error}", file=sys.stderr, flush=True)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
