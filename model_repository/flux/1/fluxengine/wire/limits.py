"""What requests may ask for and what they get by default: the operator's word, or else the checkpoint's."""

from __future__ import annotations

from dataclasses import dataclass

from fluxengine.config import EngineConfig
from fluxengine.errors import ConfigError
from fluxengine.size import Size
from fluxengine.wire.inputs import DEFAULT_STRENGTH, FAMILY_INPUTS


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a checkpoint asks to be served with, where the operator says `auto`."""

    steps: int
    guidance: float
    size: Size
    max_size: Size


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a server whose checkpoint is known."""

    default_steps: int
    max_steps: int
    default_guidance: float
    default_size: Size
    max_size: Size
    max_images: int
    max_loras: int
    inputs: frozenset[str] = FAMILY_INPUTS
    """Those of FAMILY_INPUTS that the checkpoint takes."""

    @property
    def by_default(self) -> dict[str, float]:
        """What requests get that do not say, by the name of the input."""
        height, width = self.default_size
        defaults = {
            "height": height,
            "width": width,
            "num_inference_steps": self.default_steps,
            "guidance_scale": self.default_guidance,
        }
        if "strength" in self.inputs:
            defaults["strength"] = DEFAULT_STRENGTH
        return defaults

    @property
    def at_most(self) -> dict[str, float]:
        height, width = self.max_size
        return {
            "height": height,
            "width": width,
            "num_inference_steps": self.max_steps,
            "num_images_per_prompt": self.max_images,
        }


def limits_of(config: EngineConfig, defaults: Defaults, inputs: frozenset[str]) -> Limits:
    """Raises ConfigError where the operator's word and the checkpoint's do not go together."""
    limits = Limits(
        default_steps=config.default_steps or defaults.steps,
        max_steps=config.max_steps,
        default_guidance=defaults.guidance if config.default_guidance is None else config.default_guidance,
        default_size=config.default_size or defaults.size,
        max_size=config.max_size or defaults.max_size,
        max_images=config.max_images,
        max_loras=config.max_loras,
        inputs=inputs,
    )
    if limits.default_steps > limits.max_steps:
        raise ConfigError(f"default_steps is {limits.default_steps}: more than max_steps ({limits.max_steps})")
    if any(edge > most for edge, most in zip(limits.default_size, limits.max_size, strict=True)):
        raise ConfigError(
            f"default_size (height, width) is {limits.default_size}: larger than max_size {limits.max_size}"
        )
    return limits
