"""Prompt embeddings, bounded, the least recently used out first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from fluxengine.families.base import Conditioning


class PromptCache:
    """By prompt, and what else its encoding depends on. Used by the engine's thread alone. 0 entries keep nothing."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._conditionings: OrderedDict[Hashable, Conditioning] = OrderedDict()

    def get(self, prompt: Hashable) -> Conditioning | None:
        conditioning = self._conditionings.get(prompt)
        if conditioning is not None:
            self._conditionings.move_to_end(prompt)
        return conditioning

    def put(self, prompt: Hashable, conditioning: Conditioning) -> None:
        self._conditionings[prompt] = conditioning
        self._conditionings.move_to_end(prompt)
        while len(self._conditionings) > self._entries:
            self._conditionings.popitem(last=False)
