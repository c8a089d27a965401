"""serving.json: what a checkpoint asks to be served with, where the operator says `auto`."""

from __future__ import annotations

import json
from pathlib import Path

from fluxengine.config import EngineConfig, parse_parameter
from fluxengine.errors import ConfigError
from fluxengine.wire.limits import Defaults

SERVING_FILE = "serving.json"
"""Beside model_index.json, optional: what a checkpoint asks to be served with. Its keys are parameters, and so read."""

SERVING_KEYS = ("default_steps", "default_guidance", "default_size", "max_size", "max_sequence_length")


def read_serving(folder: Path) -> EngineConfig:
    """serving.json as parameters; those that it does not have are None."""
    path = folder / SERVING_FILE
    if not path.exists():
        return EngineConfig()
    try:
        serving = json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON: {error}") from error
    if not isinstance(serving, dict):
        raise ConfigError(f"{path}: must be a JSON object")
    for key in serving:
        if key not in SERVING_KEYS:
            raise ConfigError(f"{path}: unknown key {key!r}; known are {', '.join(SERVING_KEYS)}")
    values = {key: parse_parameter(key, str(value), f"{path}: {key!r}") for key, value in serving.items()}
    return EngineConfig(**values)  # type: ignore[arg-type]  # each parser gives its field's type


def with_serving(defaults: Defaults, serving: EngineConfig) -> Defaults:
    return Defaults(
        steps=serving.default_steps or defaults.steps,
        guidance=defaults.guidance if serving.default_guidance is None else serving.default_guidance,
        size=serving.default_size or defaults.size,
        max_size=serving.max_size or defaults.max_size,
    )
