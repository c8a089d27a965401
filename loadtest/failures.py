"""What stops a run of the lab, and the exit code of each.

LabError              the message says what is wrong and what is allowed
├── BadInput          an option, a file of the caller                                            2
├── Refused           the server does not let itself be reached or set up                        3
└── Broken            the measurement came to an end before its time; what there is, is kept     4
BoundMissed           everything was measured, and a bound that was asked for is not held        1
"""

from __future__ import annotations

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
