"""What stops the lab, or a test with Locust, and the exit code of each.

LabError              the message says what is wrong and what is allowed
├── BadInput          an option or a file of the caller; the message names it                    2
├── Refused           the server does not let itself be reached or set up                        3
└── Broken            the measurement came to an end before its time; what there is, is kept     4
BoundMissed           everything was measured, and a bound that was asked for is not held        1
"""

from __future__ import annotations

import sys
from typing import ClassVar


class LabError(Exception):
    exit_code: ClassVar[int]


class BadInput(LabError):
    exit_code = 2


class Refused(LabError):
    exit_code = 3


class Broken(LabError):
    exit_code = 4


class BoundMissed(LabError):
    exit_code = 1


class Interrupted(BaseException):
    """Ctrl-C, or SIGTERM. Not an Exception, as KeyboardInterrupt is not."""

    exit_code = 130


class FirstFailure:
    """As a context manager, any number of times: ends what is inside at a failure, so that what there is can be told.

    `text` says what happened, if anything did; `raise_it` raises it in the end. Of further failures stderr is told.
    """

    def __init__(self) -> None:
        self._error: LabError | Interrupted | None = None

    def __enter__(self) -> FirstFailure:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, LabError | Interrupted):
            return False
        if self._error is None:
            self._error = error
        else:
            print(f"loadtest: {error}", file=sys.stderr)
        return True

    @property
    def text(self) -> str:
        return str(self._error or "")

    def raise_it(self) -> None:
        if self._error is not None:
            raise self._error
