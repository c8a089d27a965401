"""The engine's parameters: from config.pbtxt, each overridable by the environment variable FLUX_<NAME>."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, get_type_hints

from fluxengine.errors import ConfigError
from fluxengine.setting_values import (
    COMPILE_MODES,
    integer,
    number,
    one_of,
    or_auto,
    or_none,
    or_off,
    quantization_method,
    switch,
    text,
)
from fluxengine.size import Size, parse_size


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an operator sets. None stands for `auto`, taken from the checkpoint or from the machine, or for `off`.

    Beside its type each has what reads it from text.
    """

    model: Annotated[str, text] = "flux-tiny"
    revision: Annotated[str, text] = ""
    variant: Annotated[str, text] = ""
    dtype: Annotated[str, one_of("auto", "float32", "bfloat16", "float16")] = "auto"
    device_placement: Annotated[str, text] = "auto"
    scheduling: Annotated[str, one_of("continuous", "static", "serial")] = "continuous"
    max_in_flight: Annotated[int | None, or_auto(integer(1, 100_000))] = 512
    max_upload_mb: Annotated[int, integer(1, 1_000_000)] = 256
    default_deadline_ms: Annotated[int, integer(0, 2**31 - 1)] = 0
    drain_s: Annotated[int, integer(0, 86400)] = 20
    max_batch: Annotated[int, integer(1, 256)] = 16
    default_steps: Annotated[int | None, or_auto(integer(1, 1000))] = None
    max_steps: Annotated[int, integer(1, 1000)] = 100
    default_guidance: Annotated[float | None, or_auto(number(0, 30))] = None
    default_size: Annotated[Size | None, or_auto(parse_size)] = None
    max_size: Annotated[Size | None, or_auto(parse_size)] = None
    max_images: Annotated[int, integer(1, 64)] = 8
    max_sequence_length: Annotated[int | None, or_auto(integer(8, 512))] = None
    prompt_cache_entries: Annotated[int, integer(0, 1_000_000)] = 256
    compile: Annotated[str, one_of(*COMPILE_MODES)] = "off"
    compile_cache: Annotated[str, text] = ""
    quantization: Annotated[str, quantization_method] = "none"
    attention_backend: Annotated[str | None, or_auto(text)] = None
    step_cache: Annotated[float | None, or_off(number(0.001, 1))] = None
    lora_dir: Annotated[str, or_none] = ""
    max_loras: Annotated[int, integer(1, 1000)] = 8
    offload: Annotated[str, one_of("none", "model", "sequential")] = "none"
    vae_slicing: Annotated[bool, switch] = False
    vae_tiling: Annotated[bool, switch] = False
    preview_size: Annotated[int | None, or_auto(integer(32, 1024))] = None
    num_threads: Annotated[int | None, or_auto(integer(1, 1024))] = None

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str], environment: Mapping[str, str]) -> EngineConfig:
        """Reads `parameters` of config.pbtxt; a FLUX_<NAME> in `environment` goes first.

        Raises ConfigError naming the first key that is unknown or has a bad value, or a variable that seems to be
        misspelt. Keys in capitals belong to Triton's Python backend (EXECUTION_ENV_PATH, …) and are left to it.
        """
        names = list(_PARSERS)
        for variable in environment:
            # Kubernetes sets FLUX_PORT and the like for a service called flux, so only what looks like one of ours.
            key = variable.removeprefix("FLUX_").lower()
            if variable.startswith("FLUX_") and key not in names:
                for name in difflib.get_close_matches(key, names, n=1, cutoff=0.8):
                    raise ConfigError(f"environment variable {variable} is unknown; did you mean FLUX_{name.upper()}?")
        for key in parameters:
            if key not in names and not key.isupper():
                close = difflib.get_close_matches(key, names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(names)}"
                raise ConfigError(f"config.pbtxt: unknown parameter {key!r}{hint}")
        values: dict[str, object] = {}
        for name in names:
            variable = f"FLUX_{name.upper()}"
            source, sent = (
                (f"environment variable {variable}", environment[variable])
                if environment.get(variable)
                else (f"config.pbtxt: parameter {name!r}", parameters.get(name, ""))
            )
            if not sent:
                continue
            values[name] = parse_parameter(name, sent, source)
        config = cls(**values)  # type: ignore[arg-type]  # each parser gives its field's type; a test holds that
        if config.max_in_flight is not None and config.max_in_flight < config.max_batch:
            raise ConfigError(
                f"max_in_flight is {config.max_in_flight}: must be at least max_batch ({config.max_batch}), "
                "or the batch can never be full"
            )
        if config.step_cache is not None and config.offload == "model":
            raise ConfigError("step_cache is on and offload is model: it must be none or sequential then")
        return config


_PARSERS: Mapping[str, Callable[[str], object]] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(EngineConfig, include_extras=True).items()
}


def parse_parameter(name: str, text: str, source: str) -> object:
    """The value of one parameter, of the type of its field. Raises ConfigError that begins with `source`."""
    try:
        return _PARSERS[name](text.strip())
    except ValueError as error:
        raise ConfigError(f"{source} is {text!r}: {error}") from None
