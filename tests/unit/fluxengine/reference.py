"""Engines on small checkpoints, and how their answers are held against what diffusers draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fluxengine.config import EngineConfig
from fluxengine.engine import Engine
from fluxengine.families.base import Family
from fluxengine.load.checkpoint import load_family
from fluxengine.size import Size
from fluxengine.wire.picture_files import Picture
from fluxengine.wire.request import GenerateRequest
from tests.diffusers_reference import LENGTH, Reference
from tests.unit.fluxengine.answers import Answer, Gate
from tests.unit.fluxengine.engines import Engines

CONFIG = EngineConfig(dtype="float32", max_sequence_length=LENGTH, max_batch=4, default_size=(64, 64), num_threads=1)


class Gated:
    """A family whose every step is held by a gate."""

    def __init__(self, family: Family, gate: Gate) -> None:
        self._family = family
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def predict(self, size: tuple[int, int], latents: torch.Tensor, *others: Any) -> torch.Tensor:
        self._gate(len(latents))
        velocity: torch.Tensor = self._family.predict(size, latents, *others)
        return velocity


def start(engines: Engines, folder: Path, **options: Any) -> Engine:
    config = replace(CONFIG, model=str(folder), **options)
    return engines.start(lambda: load_family(config, Path(), torch.device("cpu")), config)


def start_gated(engines: Engines, folder: Path, gate: Gate, **options: Any) -> Engine:
    """Holds the engine before each step of a request."""
    config = replace(CONFIG, model=str(folder), **options)
    gate_left = Gate(1)  # the first picture passes

    def load() -> Any:
        return Gated(load_family(config, Path(), torch.device("cpu")), gate_left)

    engine = engines.start(load, config)
    family: Any = engine._executor._loaded
    family._gate = gate
    return engine


def first_latents(family: Family, size: Size, seed: int) -> torch.Tensor:
    """Packed [S, C], of a picture that is started from noise."""
    prepared = family.prepare(size, family.schedule(size, 1), seed, None)
    return family.admit(prepared, [{}])[0].latents


def difference(one: Picture, other: Picture) -> int:
    assert one.shape == other.shape
    assert other.std() > 10, "a picture without content would prove nothing"
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def assert_same(asked: GenerateRequest, answer: Answer, reference: Reference) -> None:
    completed = answer.completed()
    rows = [replace(row, seed=row.seed + image) for row in asked.rows for image in range(asked.num_images_per_prompt)]
    for row, picture in zip(rows, completed.pictures, strict=True):
        assert difference(picture, reference(row)) <= reference.levels, row
