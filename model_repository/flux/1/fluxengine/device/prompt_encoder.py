"""Prompts to what the transformer is told of them: encoded in batches, each only once as long as it is remembered."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from fluxengine.device.failures import halving
from fluxengine.device.prompt_cache import EncodedPrompt, PromptCache
from fluxengine.errors import FluxError
from fluxengine.families.base import Family
from fluxengine.job import Job
from fluxengine.lora.layers import LoraScales

Prompt = tuple[str, LoraScales]
"""A text, and the LoRAs that its encoding depends on."""


@dataclass(frozen=True, slots=True)
class Encoded:
    prompts: dict[Job, list[EncodedPrompt]]
    """Of each job that did not fail, in the order of its prompts."""
    failures: dict[Job, FluxError]


class PromptEncoder:
    """Used by the engine's thread alone."""

    def __init__(self, family: Family, max_batch: int, cache: PromptCache) -> None:
        self.hits = 0
        self.misses = 0
        self._family = family
        self._max_batch = max_batch
        self._cache = cache

    def encode(self, jobs: Sequence[Job]) -> Encoded:
        prompts = {job: [(text, _of_texts(job.loras)) for text in job.prompts] for job in jobs}
        wanted = [prompt for texts in prompts.values() for prompt in texts]
        found: dict[Prompt, EncodedPrompt] = {}
        for prompt in dict.fromkeys(wanted):
            cached = self._cache.get(_key(prompt))
            if cached is not None:
                found[prompt] = cached
        missing = list(dict.fromkeys(prompt for prompt in wanted if prompt not in found))
        self.hits += len(wanted) - len(missing)
        self.misses += len(missing)

        def encode_some(start: int, stop: int) -> None:
            some = missing[start:stop]
            tokens = self._family.tokenize([text for text, _ in some])
            conditionings = self._family.encode(tokens, [loras for _, loras in some])
            for prompt, one, conditioning in zip(some, tokens, conditionings, strict=True):
                found[prompt] = EncodedPrompt(conditioning, one.left_out)
                self._cache.put(_key(prompt), found[prompt])

        failed = {missing[row]: error for row, error in halving(len(missing), self._max_batch, encode_some).items()}
        failures = {job: failed[prompt] for job in jobs for prompt in prompts[job] if prompt in failed}
        return Encoded(
            {job: [found[prompt] for prompt in prompts[job]] for job in jobs if job not in failures}, failures
        )


def _key(prompt: Prompt) -> Hashable:
    """Without the LoRAs themselves, which would stay in memory as long as the embeddings."""
    text, loras = prompt
    return text, tuple((lora.serial, scale) for lora, scale in loras)


def _of_texts(loras: LoraScales) -> LoraScales:
    return tuple((lora, scale) for lora, scale in loras if lora.text_encoder or lora.text_encoder_2)
