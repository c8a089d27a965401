from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fluxengine.errors import ConfigError, NotFound
from fluxengine.lora.layers import Lora
from fluxengine.lora.library import LoraLibrary, find_lora_folder


class Loading:
    """Counts what is loaded; the name `broken` fails."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, path: Path) -> Lora:
        self.names.append(path.stem)
        if path.stem == "broken":
            raise ValueError("broken")
        return Lora(path.stem, {}, {})


@pytest.fixture
def loading() -> Loading:
    return Loading()


@pytest.fixture
def library(tmp_path: Path, loading: Loading) -> Iterator[LoraLibrary]:
    for name in ("a", "b", "c", "broken"):
        (tmp_path / f"{name}.safetensors").touch()
    with ThreadPoolExecutor(1) as executor:
        yield LoraLibrary(tmp_path, 2, loading, executor)


def use(library: LoraLibrary, *names: str) -> list[str] | None:
    """Acquires, waits for the loading, and releases."""
    futures = library.acquire(names)
    if futures is None:
        return None
    loaded = [future.result().name for future in futures]
    library.release(names)
    return loaded


def test_each_is_loaded_once_while_there_is_room(library: LoraLibrary, loading: Loading) -> None:
    assert use(library, "a") == ["a"]
    assert use(library, "b", "a") == ["b", "a"]
    assert use(library, "a") == ["a"]
    assert loading.names == ["a", "b"]
    assert library.loaded == 2


def test_the_one_unused_longest_goes(library: LoraLibrary, loading: Loading) -> None:
    for names in ("a", "b", "a", "c", "a", "b"):
        use(library, names)
    assert loading.names == ["a", "b", "c", "b"]
    assert library.loaded == 2


def test_what_is_in_use_stays_and_others_wait(library: LoraLibrary, loading: Loading) -> None:
    assert library.acquire(["a"]) is not None
    assert library.acquire(["a", "b"]) is not None
    assert library.acquire(["c"]) is None
    assert library.acquire(["a"]) is not None, "it is there already"
    library.release(["a", "b"])
    assert library.acquire(["b", "c"]) is None, "all or none"
    assert use(library, "c") == ["c"]
    assert library.loaded == 2
    assert sorted(loading.names) == ["a", "b", "c"]


def test_one_that_could_not_be_loaded_is_tried_again(library: LoraLibrary, loading: Loading) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            use(library, "broken")
        library.release(["broken"])
    assert loading.names == ["broken", "broken"]


def test_a_file_that_was_replaced_is_read_again(library: LoraLibrary, loading: Loading, tmp_path: Path) -> None:
    use(library, "a")
    os.utime(tmp_path / "a.safetensors", ns=(1, 1))
    (held,) = library.acquire(["a"]) or []
    held.result()
    os.utime(tmp_path / "a.safetensors", ns=(2, 2))
    assert library.acquire(["a"]) == [held]
    library.release(["a"])
    library.release(["a"])
    assert loading.names == ["a", "a"], "but not while the old one is in use"


def test_a_file_that_has_gone(library: LoraLibrary, tmp_path: Path) -> None:
    use(library, "a")
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(NotFound):
        library.acquire(["b", "a"])
    assert library.loaded == 1, "nothing is reserved for a request that failed"


def test_loading_is_done_elsewhere(library: LoraLibrary, loading: Loading) -> None:
    threads: list[str] = []
    library._load = lambda path: threads.append(threading.current_thread().name) or loading(path)  # type: ignore[func-returns-value]
    use(library, "a")
    assert threads != [threading.current_thread().name]


def test_the_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "loras").mkdir(parents=True)
    (tmp_path / "others").mkdir()
    assert find_lora_folder("", home) is None
    assert find_lora_folder("loras", home) == home / "loras"
    assert find_lora_folder(str(tmp_path / "others"), home) == tmp_path / "others"
    with pytest.raises(ConfigError, match="lora_dir is 'nowhere'"):
        find_lora_folder("nowhere", home)


def test_a_name_that_no_file_can_have(library: LoraLibrary) -> None:
    with pytest.raises(NotFound, match="cannot be read: File name too long"):
        library.check(["x" * 300])


def test_many_names_are_not_all_listed(library: LoraLibrary, tmp_path: Path) -> None:
    for n in range(30):
        (tmp_path / f"z{n:02}.safetensors").touch()
    with pytest.raises(NotFound, match=r"is not here; there are a, b, broken, c, z00, .*, z15 and 14 more$"):
        library.check(["other"])
