"""The engine's parameters: from config.pbtxt, each overridable by the environment variable FLUX_<NAME>."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from fluxengine.errors import ConfigError

Size = tuple[int, int]
"""(height, width) in pixels."""

SIZE_MULTIPLE = 16
"""The VAE shrinks by 8 and FLUX packs 2x2 latents into one token."""

MIN_EDGE = 64

QUANTIZATIONS = ("none", "int8_weight_only", "int8_dynamic", "fp8_weight_only", "fp8_dynamic", "nvfp4", "nf4")

COMPILE_MODES = ("off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def _text(value: str) -> str:
    return value


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value.lower()

    return parse


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"must be an integer from {low} to {high}")
        return number

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return number

    return parse


def parse_size(value: str) -> Size:
    """`WIDTHxHEIGHT` in pixels, as people write sizes → (height, width)."""
    width, _, height = value.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError("must be WIDTHxHEIGHT in pixels, such as 1024x1024")
    size = int(height), int(width)
    if any(edge % SIZE_MULTIPLE or not MIN_EDGE <= edge <= 8192 for edge in size):
        raise ValueError(f"width and height must be multiples of {SIZE_MULTIPLE} from {MIN_EDGE} to 8192")
    return size


def _or_auto(parse: Callable[[str], object]) -> Callable[[str], object]:
    def parse_or_auto(value: str) -> object:
        if value.lower() == "auto":
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f"{error}, or auto") from None

    return parse_or_auto


def _or_none(value: str) -> str:
    return "" if value.lower() == "none" else value


def _or_off(parse: Callable[[str], object]) -> Callable[[str], object]:
    def parse_or_off(value: str) -> object:
        if value.lower() == "off":
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f"{error}, or off") from None

    return parse_or_off


def _switch(value: str) -> bool:
    if value.lower() not in ("on", "off"):
        raise ValueError("must be on or off")
    return value.lower() == "on"


def _quantization(value: str) -> str:
    kind, _, file = value.partition(":")
    if kind.lower() == "gguf" and file:
        return f"gguf:{file}"
    if value.lower() not in QUANTIZATIONS:
        raise ValueError(f"must be one of {', '.join(QUANTIZATIONS)}, or gguf:FILE")
    return value.lower()


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What an operator sets. None stands for `auto`, taken from the checkpoint or from the machine, or for `off`."""

    model: str = "flux-tiny"
    revision: str = ""
    variant: str = ""
    dtype: str = "auto"
    device_placement: str = "auto"
    scheduling: str = "continuous"
    max_in_flight: int | None = 512
    max_upload_mb: int = 256
    default_deadline_ms: int = 0
    drain_s: int = 20
    max_batch: int = 16
    default_steps: int | None = None
    max_steps: int = 100
    default_guidance: float | None = None
    default_size: Size | None = None
    max_size: Size | None = None
    max_images: int = 8
    max_sequence_length: int | None = None
    prompt_cache_entries: int = 256
    compile: str = "off"
    compile_cache: str = ""
    quantization: str = "none"
    attention_backend: str | None = None
    step_cache: float | None = None
    lora_dir: str = ""
    max_loras: int = 8
    offload: str = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False
    preview_size: int | None = None
    num_threads: int | None = None

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str], environment: Mapping[str, str]) -> EngineConfig:
        """Reads `parameters` of config.pbtxt; a FLUX_<NAME> in `environment` goes first.

        Raises ConfigError naming the first key that is unknown or has a bad value, or a variable that seems to be
        misspelt. Keys in capitals belong to Triton's Python backend (EXECUTION_ENV_PATH, …) and are left to it.
        """
        names = [field.name for field in fields(cls)]
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
            source, text = (
                (f"environment variable {variable}", environment[variable])
                if environment.get(variable)
                else (f"config.pbtxt: parameter {name!r}", parameters.get(name, ""))
            )
            if not text:
                continue
            values[name] = parse_parameter(name, text, source)
        config = cls(**values)  # type: ignore[arg-type]  # each parser gives its field's type; a test holds that
        if config.max_in_flight is not None and config.max_in_flight < config.max_batch:
            raise ConfigError(
                f"max_in_flight is {config.max_in_flight}: must be at least max_batch ({config.max_batch}), "
                "or the batch can never be full"
            )
        if config.step_cache is not None and config.offload == "model":
            raise ConfigError("step_cache is on and offload is model: it must be none or sequential then")
        return config


_PARSERS: dict[str, Callable[[str], object]] = {
    "model": _text,
    "revision": _text,
    "variant": _text,
    "dtype": _one_of("auto", "float32", "bfloat16", "float16"),
    "device_placement": _text,
    "scheduling": _one_of("continuous", "static", "serial"),
    "max_in_flight": _or_auto(_integer(1, 100_000)),
    "max_upload_mb": _integer(1, 1_000_000),
    "default_deadline_ms": _integer(0, 2**31 - 1),
    "drain_s": _integer(0, 86400),
    "max_batch": _integer(1, 256),
    "default_steps": _or_auto(_integer(1, 1000)),
    "max_steps": _integer(1, 1000),
    "default_guidance": _or_auto(_number(0, 30)),
    "default_size": _or_auto(parse_size),
    "max_size": _or_auto(parse_size),
    "max_images": _integer(1, 64),
    "max_sequence_length": _or_auto(_integer(8, 512)),
    "prompt_cache_entries": _integer(0, 1_000_000),
    "compile": _one_of(*COMPILE_MODES),
    "compile_cache": _text,
    "quantization": _quantization,
    "attention_backend": _or_auto(_text),
    "step_cache": _or_off(_number(0.001, 1)),
    "lora_dir": _or_none,
    "max_loras": _integer(1, 1000),
    "offload": _one_of("none", "model", "sequential"),
    "vae_slicing": _switch,
    "vae_tiling": _switch,
    "preview_size": _or_auto(_integer(32, 1024)),
    "num_threads": _or_auto(_integer(1, 1024)),
}


def parse_parameter(name: str, text: str, source: str) -> object:
    """The value of one parameter, of the type of its field. Raises ConfigError that begins with `source`."""
    try:
        return _PARSERS[name](text.strip())
    except ValueError as error:
        raise ConfigError(f"{source} is {text!r}: {error}") from None
