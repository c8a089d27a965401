"""Pictures that are handed out by address rather than in the answer."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StoredPicture:
    file: bytes
    kind: str
    """png, jpeg or webp."""
    until_s: float


class PictureStore:
    """In memory, for a while; when it is full the oldest go first. One event loop uses it."""

    def __init__(self, max_bytes: int, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._clock = clock
        self._bytes = 0
        self._pictures: OrderedDict[str, StoredPicture] = OrderedDict()

    def add(self, file: bytes, kind: str) -> str:
        """Its name, which cannot be guessed."""
        name = f"{secrets.token_urlsafe(24)}.{kind}"
        self._pictures[name] = StoredPicture(file, kind, self._clock() + self._keep_s)
        self._bytes += len(file)
        self._drop()
        return name

    def find(self, name: str) -> StoredPicture | None:
        self._drop()
        return self._pictures.get(name)

    def left_s(self, picture: StoredPicture) -> int:
        return max(0, int(picture.until_s - self._clock()))

    def _drop(self) -> None:
        while self._pictures:
            oldest = next(iter(self._pictures.values()))
            if oldest.until_s > self._clock() and self._bytes <= self._max_bytes:
                return
            self._pictures.popitem(last=False)
            self._bytes -= len(oldest.file)
