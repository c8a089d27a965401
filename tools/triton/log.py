"""Where a server's log goes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

STANDARD_OUTPUT = Path("-")
"""As a log file: the log goes where the launcher's own output goes."""


class ServerLog:
    """The log of a server, in `file` or else in a temporary one that stays only after a failure."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.keep = file is not None
        self._goes_on = False

    def open(self) -> IO[bytes]:
        """For the server to write. One that is started again goes on with the log of the one before."""
        if self.file is None:
            handle, name = tempfile.mkstemp(prefix="triton-", suffix=".log")
            self.file = Path(name)
            return os.fdopen(handle, "wb")
        if self.file == STANDARD_OUTPUT:
            return os.fdopen(os.dup(1), "wb")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        log = self.file.open("ab" if self._goes_on else "wb")
        self._goes_on = True
        return log

    def tail(self, lines: int) -> str:
        """The last lines; none where the log went to the output."""
        if self.file is None or not self.file.is_file():
            return ""
        with self.file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 200 * lines))
            text = log.read().replace(b"\0", b"").decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """The server has ended."""
        if not self.keep and self.file is not None:
            self.file.unlink(missing_ok=True)
            self.file = None
