"""The device that the engine draws on: a family and its runner, today in the engine's own process and thread.

The engine sees no tensor but pictures, so whoever draws on other processes too takes the place of this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fluxengine.config import EngineConfig
from fluxengine.device.memory import automatic_max_in_flight
from fluxengine.device.runner import Runner, StepOutcome
from fluxengine.errors import FluxError
from fluxengine.families.base import Family
from fluxengine.job import Job
from fluxengine.lora.layers import Lora
from fluxengine.size import Size
from fluxengine.wire.limits import Limits, limits_of
from fluxengine.wire.picture_files import Picture


class Executor:
    """All of it is for the engine's thread, but for `load_lora`. `load` comes first, `close` last."""

    guided: bool
    """Whether guidance_scale has any effect."""
    max_sequence_length: int
    """Text tokens."""

    def __init__(self, config: EngineConfig, load: Callable[[], Family]) -> None:
        self._config = config
        self._load = load
        self._family: Family | None = None
        self._runner: Runner

    def load(self) -> Limits:
        """Raises ConfigError, and whatever else may be wrong with a checkpoint."""
        self._family = family = self._load()
        self._runner = Runner(family, self._config)
        self.guided, self.max_sequence_length = family.guided, family.max_sequence_length
        return limits_of(self._config, family.defaults, family.inputs)

    def warm_up(self, size: Size) -> None:
        """Compiles what steps of this size need, where something is compiled. May take minutes."""
        self._loaded.warm_up(size)

    def load_lora(self, path: Path) -> Lora:
        """From any thread, as soon as there are limits. Raises InvalidArgument."""
        return self._loaded.load_lora(path)

    def cost(self, size: Size) -> float:
        """What a step of a row of this size takes of the device, against others."""
        return self._loaded.cost(size)

    def encode(self, jobs: Sequence[Job]) -> dict[Job, FluxError]:
        return self._runner.encode(jobs)

    def step(self, jobs: Sequence[Job]) -> StepOutcome:
        return self._runner.step(jobs)

    def decode(self, jobs: Sequence[Job]) -> tuple[dict[Job, Picture], dict[Job, FluxError]]:
        return self._runner.decode(jobs)

    def release(self, job: Job) -> None:
        self._runner.release(job)

    @property
    def prompt_hits_and_misses(self) -> tuple[int, int]:
        """Prompts so far that were still known, and that were encoded."""
        return self._runner.prompts.hits, self._runner.prompts.misses

    def max_in_flight(self) -> int:
        """As many images as the device has memory for, once it has drawn one."""
        return automatic_max_in_flight(self._loaded.device, self._runner.job_bytes, self._config.max_batch)

    def close(self) -> None:
        if self._family is not None:
            self._family.close()

    @property
    def _loaded(self) -> Family:
        assert self._family is not None, "load comes first"
        return self._family
