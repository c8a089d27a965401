from __future__ import annotations

import pytest

from fluxclient.gateway.keeping.file_store import FileStore
from tests.unit.client.gateway.keeping.clock import Clock


def test_the_store_forgets_the_oldest_and_the_old() -> None:
    clock = Clock()
    store = FileStore(10, 60, clock)
    names = store.add([bytes(4)], "png")
    clock.now_s = 30
    names += store.add([bytes(4), bytes(2)], "png")
    assert all(store.find(name) for name in names)
    names += store.add([b"1"], "png")
    assert [bool(store.find(name)) for name in names] == [False, True, True, True]
    clock.now_s = 89
    assert store.left_s(store.find(names[1]) or pytest.fail("it is gone")) == 1
    clock.now_s = 90
    assert not any(store.find(name) for name in names)
