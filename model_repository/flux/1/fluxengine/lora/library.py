"""Which LoRAs are in memory: loaded on first use, a bounded number, those unused longest out first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

from fluxengine.errors import ConfigError, NotFound
from fluxengine.lora.layers import Lora

SUFFIX = ".safetensors"

SHOWN = 20
"""Names of LoRAs that an error lists."""


def find_lora_folder(lora_dir: str, home: Path) -> Path | None:
    """`lora_dir` is a folder in `home` or any other, empty for none. Raises ConfigError if it does not exist."""
    if not lora_dir:
        return None
    folder = next((path for path in (home / lora_dir, Path(lora_dir)) if path.is_dir()), None)
    if folder is None:
        raise ConfigError(f"lora_dir is {lora_dir!r}: there is no such folder, neither in {home} nor elsewhere")
    return folder


@dataclass(slots=True)
class _Entry:
    loading: Future[Lora]
    stamp: int
    """The file's time of change, in ns."""
    users: int = 0


class LoraLibrary:
    """Used by the engine's thread, but for `check` and the loading itself."""

    def __init__(self, folder: Path | None, most: int, load: Callable[[Path], Lora], executor: Executor) -> None:
        """At most `most` LoRAs are in memory at a time; `load` is called by `executor`."""
        self._folder = folder
        self._most = most
        self._load = load
        self._executor = executor
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # least recently used first

    def check(self, names: Iterable[str]) -> None:
        """Raises NotFound if one of them is not in the folder. From any thread."""
        for name in names:
            if self._folder is None:
                raise NotFound("lora", f"{name!r} is not here: this server has no lora_dir")
            try:
                found = Path(name).name == name and self._path(name).is_file()
            except OSError as error:  # too long a name, or a folder that cannot be read
                raise NotFound("lora", f"{name[:80]!r} cannot be read: {error.strerror}") from None
            if not found:
                there = sorted(path.stem for path in self._folder.glob("*" + SUFFIX))
                more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
                shown = ", ".join(there[:SHOWN]) or "none"
                raise NotFound("lora", f"{name[:80]!r} is not here; there are {shown}{more}")

    def acquire(self, names: Iterable[str]) -> list[Future[Lora]] | None:
        """Reserves a place for each, and begins to load those that are not in memory. None if there is no room yet.

        All or none, so that no two requests wait for each other. Whoever gets futures gives them back by `release`.
        Raises NotFound when a file has gone in the meantime.
        """
        names = list(names)
        stamps = {name: self._stamp(name) for name in names}
        for name in names:
            entry = self._entries.get(name)
            if entry and not entry.users and (entry.stamp != stamps[name] or _failed(entry)):
                del self._entries[name]  # the file is another one now, or may be mended
        new = [name for name in names if name not in self._entries]
        idle = [name for name, entry in self._entries.items() if not entry.users and name not in names]
        overflow = len(self._entries) + len(new) - self._most
        if overflow > len(idle):
            return None
        for name in idle[: max(0, overflow)]:
            del self._entries[name]
        for name in new:
            path = self._path(name)
            self._entries[name] = _Entry(self._executor.submit(self._load, path), stamps[name])
        for name in names:
            self._entries.move_to_end(name)
            self._entries[name].users += 1
        return [self._entries[name].loading for name in names]

    def release(self, names: Iterable[str]) -> None:
        """What `acquire` gave is not used any more. It stays in memory while there is room."""
        for name in names:
            self._entries[name].users -= 1

    @property
    def loaded(self) -> int:
        """In memory, or on the way there."""
        return len(self._entries)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / (name + SUFFIX)

    def _stamp(self, name: str) -> int:
        self.check([name])
        try:
            return self._path(name).stat().st_mtime_ns
        except OSError as error:
            raise NotFound("lora", f"{name!r} cannot be read: {error.strerror}") from None


def _failed(entry: _Entry) -> bool:
    return entry.loading.done() and entry.loading.exception() is not None
