"""Where the records of a test are kept as they come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

MARKER = ".partial"
"""Added to a record file's name."""


class RecordFile:
    """Begins empty. A crash leaves all lines but perhaps the last whole.

    Beside it lies FILE.partial until the test has come to its end, so that it stays after a crash; and afterwards where
    the records are not all that there should be, with the reason in it.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError, as `write` does."""
        self._file = open(path, "w", buffering=1)  # noqa: SIM115 - as long as the test
        self._marker = Path(f"{path}{MARKER}")
        if self._is_regular:  # not beside a device
            self._marker.write_text("the test did not come to its end\n")

    def write(self, record: Mapping[str, Any]) -> None:
        self._file.write(f"{json.dumps(record)}\n")

    def close(self, problem: str = "") -> None:
        """`problem` says why records are missing, if any are."""
        with suppress(OSError):  # of a full disk, which `write` has told of
            self._file.close()
        if not self._is_regular:
            return
        if problem:
            with suppress(OSError):  # then the marker stays as it was in the beginning
                self._marker.write_text(f"{problem}\n")
        else:
            self._marker.unlink(missing_ok=True)

    @property
    def _is_regular(self) -> bool:
        return Path(self._file.name).is_file()
