"""Pictures that are handed out by address rather than in the answer.

cachetools has no cache that lets go of the oldest rather than of what was not asked for longest, and tells how long an
item stays.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fluxclient.errors import InvalidArgument


@dataclass(frozen=True)
class StoredFile:
    file: bytes
    kind: str
    """png, jpeg or webp."""
    until_s: float


class FileStore:
    """In memory, for a while; when it is full the oldest go first. One event loop uses it."""

    def __init__(self, max_bytes: int, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._clock = clock
        self._bytes = 0
        self._pictures: OrderedDict[str, StoredFile] = OrderedDict()

    def add(self, files: Sequence[bytes], kind: str) -> list[str]:
        """Their names, which cannot be guessed. Raises InvalidArgument for more than it can hold at a time."""
        size = sum(map(len, files))
        if size > self._max_bytes:
            problem = f"is 'url', and the pictures have {size} bytes of at most {self._max_bytes}; must be 'b64_json'"
            raise InvalidArgument(problem, field="response_format")
        names = [f"{secrets.token_urlsafe(24)}.{kind}" for _ in files]
        for name, file in zip(names, files, strict=True):
            self._pictures[name] = StoredFile(file, kind, self._clock() + self._keep_s)
        self._bytes += size
        self._drop()
        return names

    def find(self, name: str) -> StoredFile | None:
        self._drop()
        return self._pictures.get(name)

    def left_s(self, picture: StoredFile) -> int:
        return max(0, int(picture.until_s - self._clock()))

    def _drop(self) -> None:
        while self._pictures:
            oldest = next(iter(self._pictures.values()))
            if oldest.until_s > self._clock() and self._bytes <= self._max_bytes:
                return
            self._pictures.popitem(last=False)
            self._bytes -= len(oldest.file)
