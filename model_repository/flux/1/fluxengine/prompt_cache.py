"""Prompt embeddings, bounded, the least recently used out first."""

from __future__ import annotations

from collections import OrderedDict

from fluxengine.family import Conditioning


class PromptCache:
    """Used by the engine's thread alone. `entries` = 0 keeps nothing."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._conditionings: OrderedDict[str, Conditioning] = OrderedDict()

    def get(self, prompt: str) -> Conditioning | None:
        conditioning = self._conditionings.get(prompt)
        if conditioning is not None:
            self._conditionings.move_to_end(prompt)
        return conditioning

    def put(self, prompt: str, conditioning: Conditioning) -> None:
        self._conditionings[prompt] = conditioning
        self._conditionings.move_to_end(prompt)
        while len(self._conditionings) > self._entries:
            self._conditionings.popitem(last=False)
