"""Encoded prompts, bounded, the least recently used out first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from fluxengine.families.base import Conditioning


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    conditioning: Conditioning
    left_out: Mapping[str, str]
    """See Tokens."""


class PromptCache:
    """By prompt, and what else its encoding depends on. Used by the engine's thread alone. 0 entries keep nothing."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._prompts: OrderedDict[Hashable, EncodedPrompt] = OrderedDict()

    def get(self, prompt: Hashable) -> EncodedPrompt | None:
        encoded = self._prompts.get(prompt)
        if encoded is not None:
            self._prompts.move_to_end(prompt)
        return encoded

    def put(self, prompt: Hashable, encoded: EncodedPrompt) -> None:
        self._prompts[prompt] = encoded
        self._prompts.move_to_end(prompt)
        while len(self._prompts) > self._entries:
            self._prompts.popitem(last=False)
