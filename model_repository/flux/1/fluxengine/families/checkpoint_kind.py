"""What a kind of checkpoint in diffusers' format consists of, and what becomes of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fluxengine.families.base import Family

if TYPE_CHECKING:
    from fluxengine.compile.compiled_blocks import CompiledBlocks

Parts = Mapping[str, Any]
"""Loaded networks and tokenizers, by the name of their folder."""


@dataclass(frozen=True, slots=True)
class Network:
    kind: Any
    """Its class, of diffusers or transformers."""
    harmless: re.Pattern[str] | None = None
    """Weights that people's files may have beside those of the network."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    classes: tuple[str, ...]
    """Of which model_index.json must name one."""
    load: Callable[[Path, Parts], Any]
    """From its folder and the networks. Raises ConfigError when it is not whole or does not fit its text encoder."""


@dataclass(frozen=True, slots=True)
class CheckpointKind:
    title: str
    pipeline: Any
    """The class that model_index.json names."""
    networks: Mapping[str, Network]
    tokenizers: Mapping[str, Tokenizer]
    check: Callable[[Parts], None]
    """Raises ConfigError where networks do not fit each other."""
    make: Callable[[Any, torch.device, int | None, CompiledBlocks | None], Family]
    """From a pipeline in its place, the most text tokens (None: as the checkpoint has them) and its compiled blocks."""
