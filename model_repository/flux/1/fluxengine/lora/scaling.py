"""How strongly a LoRA is applied that diffusers wrote: by PEFT's configuration, beside the weights as metadata."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

METADATA_KEY = "lora_adapter_metadata"

_DEFAULT = 8
"""PEFT's, of rank and of alpha."""

_OTHER_WEIGHTS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin a training (init_lora_weights) that change the model's own weights, too."""


class LoraScaling:
    """Of one network's layers. Raises ValueError where the metadata make no sense, or no plain LoRA."""

    def __init__(self, metadata: Mapping[str, str], network: str) -> None:
        entries = json.loads(metadata.get(METADATA_KEY, "{}"))
        if not isinstance(entries, dict):
            raise ValueError(f"its metadata {METADATA_KEY} are no JSON object")
        prefix = network + "."
        self._config: dict[str, Any] = {
            key.removeprefix(prefix): value
            for key, value in entries.items()
            # The transformer's own save_lora_adapter writes no prefix.
            if key.startswith(prefix) or (network == "transformer" and "." not in key)
        }
        if self._config.get("use_dora"):
            raise ValueError("it is a DoRA by its metadata")
        if str(self._config.get("init_lora_weights")).startswith(_OTHER_WEIGHTS):
            raise ValueError(f"it began as {self._config['init_lora_weights']}: made for weights that this model lacks")

    def of(self, layer: str, rank: int) -> float | None:
        """None if the file does not say."""
        if not self._config:
            return None
        expected = self._value("r", "rank_pattern", layer)
        if expected != rank:
            raise ValueError(f"{layer} has rank {rank}, but {expected:g} by its metadata")
        alpha = self._value("lora_alpha", "alpha_pattern", layer)
        return alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    def _value(self, name: str, patterns: str, layer: str) -> float:
        others = self._config.get(patterns) or {}
        if not isinstance(others, dict):
            raise ValueError(f"{patterns} in its metadata is no JSON object")
        value = self._config.get(name, _DEFAULT)
        for pattern, other in others.items():
            if re.match(rf"(.*\.)?({pattern})$", layer):  # as PEFT matches them
                value = other
                break
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{name} is {str(value)[:40]!r} for {layer} in its metadata")
        return value
