from __future__ import annotations

import torch

from fluxengine.device.prompt_cache import EncodedPrompt, PromptCache


def encoded() -> EncodedPrompt:
    return EncodedPrompt({"text": torch.zeros(1)}, {})


def test_the_least_recently_used_goes_first() -> None:
    cache = PromptCache(2)
    one, two, three = encoded(), encoded(), encoded()
    cache.put("one", one)
    cache.put("two", two)
    assert cache.get("one") is one  # used: "two" is older now
    cache.put("three", three)
    assert cache.get("two") is None
    assert cache.get("one") is one
    assert cache.get("three") is three


def test_putting_it_again_makes_it_newer() -> None:
    cache = PromptCache(2)
    newer = encoded()
    cache.put("one", encoded())
    cache.put("two", encoded())
    cache.put("one", newer)
    cache.put("three", encoded())
    assert cache.get("two") is None
    assert cache.get("one") is newer


def test_it_never_holds_more_than_its_entries() -> None:
    cache = PromptCache(10)
    for n in range(100):
        cache.put(str(n), encoded())
    assert [n for n in range(100) if cache.get(str(n)) is not None] == list(range(90, 100))


def test_no_entries_keep_nothing() -> None:
    cache = PromptCache(0)
    cache.put("one", encoded())
    assert cache.get("one") is None
