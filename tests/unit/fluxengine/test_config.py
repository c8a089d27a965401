from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from types import NoneType, UnionType
from typing import get_args, get_type_hints

import pytest

from fluxengine.config import EngineConfig
from fluxengine.errors import ConfigError
from fluxengine.size import parse_size

NAMES = [field.name for field in fields(EngineConfig)]
TYPES = get_type_hints(EngineConfig)

GOOD: dict[str, tuple[str, object]] = {
    "model": ("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-dev"),
    "revision": ("refs/pr/1", "refs/pr/1"),
    "variant": ("fp16", "fp16"),
    "dtype": ("BFloat16", "bfloat16"),
    "device_placement": ("cuda:1", "cuda:1"),
    "scheduling": ("Static", "static"),
    "max_in_flight": ("128", 128),
    "max_upload_mb": ("64", 64),
    "default_deadline_ms": ("90000", 90000),
    "drain_s": ("5", 5),
    "max_batch": ("4", 4),
    "default_steps": ("28", 28),
    "max_steps": ("50", 50),
    "default_guidance": ("3.5", 3.5),
    "default_size": ("1024x768", (768, 1024)),
    "max_size": ("2048X1536", (1536, 2048)),
    "max_images": ("2", 2),
    "max_sequence_length": ("256", 256),
    "prompt_cache_entries": ("0", 0),
    "compile": ("Default", "default"),
    "compile_cache": ("/var/cache/flux", "/var/cache/flux"),
    "quantization": ("GGUF:/models/Q4.gguf", "gguf:/models/Q4.gguf"),
    "attention_backend": ("native", "native"),
    "step_cache": ("0.05", 0.05),
    "lora_dir": ("/loras", "/loras"),
    "max_loras": ("4", 4),
    "offload": ("model", "model"),
    "vae_slicing": ("on", True),
    "vae_tiling": ("ON", True),
    "preview_size": ("128", 128),
    "num_threads": ("2", 2),
}
BAD: dict[str, list[str]] = {
    "dtype": ["float64", "fp16"],
    "scheduling": ["fifo"],
    "max_in_flight": ["0", "-1", "many", "1.5", "100001"],
    "max_upload_mb": ["0", "1e9"],
    "default_deadline_ms": ["-1", "none"],
    "drain_s": ["-1", "soon"],
    "max_batch": ["0", "257", "x"],
    "default_steps": ["0", "1001", "none"],
    "max_steps": ["0", "auto", "ten"],
    "default_guidance": ["-1", "31", "nan", "inf", "strong"],
    "default_size": ["1024", "1024x", "x1024", "100x100", "48x64", "64x8208", "-64x64", "64x64x64"],
    "max_size": ["0x0", "big"],
    "max_images": ["0", "65"],
    "max_sequence_length": ["7", "513"],
    "prompt_cache_entries": ["-1"],
    "compile": ["on", "fast"],
    "quantization": ["int8", "gguf", "gguf:"],
    "step_cache": ["0", "fbc", "1.5", "nan"],
    "max_loras": ["0", "some"],
    "offload": ["cpu"],
    "vae_slicing": ["true"],
    "vae_tiling": ["1"],
    "preview_size": ["31", "1025"],
    "num_threads": ["0", "1025"],
}
OFF = ["step_cache"]
AUTO = [name for name in NAMES if NoneType in get_args(TYPES[name]) and name not in OFF]


def read(**parameters: str) -> EngineConfig:
    return EngineConfig.from_parameters(parameters, {})


def fits(value: object, declared: object) -> bool:
    if isinstance(declared, UnionType):
        return any(fits(value, option) for option in get_args(declared))
    if declared == tuple[int, int]:
        return isinstance(value, tuple) and len(value) == 2 and all(type(edge) is int for edge in value)
    return type(value) is declared


def test_the_parameters_are_those_of_the_contract() -> None:
    contract = (
        "model, revision, variant, dtype, device_placement, scheduling, max_in_flight, max_batch, default_steps, "
        "max_steps, default_guidance, default_size, max_size, max_images, max_sequence_length, prompt_cache_entries, "
        "compile, quantization, attention_backend, step_cache, lora_dir, preview_size, num_threads"
    )
    assert set(contract.split(", ")) <= set(NAMES)


def test_defaults_have_their_declared_types() -> None:
    config = EngineConfig()
    assert {name for name in NAMES if not fits(getattr(config, name), TYPES[name])} == set()
    assert read() == config
    assert read(model="", max_batch="") == config, "an empty value is no value"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_parameter_is_parsed_to_its_declared_type(name: str) -> None:
    text, value = GOOD[name]
    read_value = getattr(read(**{name: text}), name)
    assert read_value == value
    assert fits(read_value, TYPES[name]), f"{read_value!r} is not {TYPES[name]}"


@pytest.mark.parametrize("name", AUTO)
def test_auto_leaves_it_to_the_checkpoint_or_the_machine(name: str) -> None:
    assert getattr(read(**{name: "auto"}), name) is None
    assert getattr(read(**{name: "AUTO"}), name) is None


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_bad_value_is_named_with_what_is_allowed(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**{name: text})
    message = str(caught.value)
    assert f"parameter {name!r} is {text!r}: " in message
    assert "must be" in message
    assert ("or auto" in message) == (name in AUTO)


@pytest.mark.parametrize("name", OFF)
def test_what_is_off_has_no_value(name: str) -> None:
    assert getattr(read(**{name: "off"}), name) is None
    assert getattr(read(**{name: "OFF"}), name) is None


def test_spaces_around_a_value_do_not_matter() -> None:
    assert read(max_batch=" 4 ").max_batch == 4


def test_an_unknown_key_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown parameter 'max_bach'; did you mean 'max_batch'"):
        read(max_bach="4")


def test_an_unknown_key_unlike_any_other_gets_the_whole_list() -> None:
    with pytest.raises(ConfigError, match="unknown parameter 'zzz'") as caught:
        read(zzz="4")
    assert all(name in str(caught.value) for name in NAMES)


def test_parameters_of_the_python_backend_are_left_to_it() -> None:
    assert read(EXECUTION_ENV_PATH="/env.tar.gz", FORCE_CPU_ONLY_INPUT_TENSORS="no") == EngineConfig()


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_environment_goes_first(name: str) -> None:
    text, value = GOOD[name]
    config = EngineConfig.from_parameters({name: "certainly wrong"}, {f"FLUX_{name.upper()}": text})
    assert getattr(config, name) == value


def test_an_empty_variable_does_not_count() -> None:
    assert EngineConfig.from_parameters({"max_batch": "4"}, {"FLUX_MAX_BATCH": ""}).max_batch == 4


def test_a_misspelt_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="FLUX_MAX_BACH is unknown; did you mean FLUX_MAX_BATCH"):
        EngineConfig.from_parameters({}, {"FLUX_MAX_BACH": "4"})


def test_variables_of_others_do_not_matter() -> None:
    """Those are Kubernetes', for a service that is called flux."""
    others = {"FLUX_SERVICE_HOST": "10.0.0.1", "FLUX_SERVICE_PORT": "8000", "FLUX_PORT": "tcp://10.0.0.1:8000"}
    more = {"FLUX_PORT_8000_TCP_ADDR": "10.0.0.1", "FLUX_PORT_8000_TCP_PROTO": "tcp", "FLUXCLIENT_URL": "grpc://x"}
    assert EngineConfig.from_parameters({}, {**others, **more}) == EngineConfig()


def test_loras_are_switched_off_by_a_word() -> None:
    assert EngineConfig.from_parameters({"lora_dir": "loras"}, {"FLUX_LORA_DIR": "none"}).lora_dir == ""


def test_a_bad_variable_is_named() -> None:
    with pytest.raises(ConfigError, match="environment variable FLUX_MAX_BATCH is 'many': must be an integer"):
        EngineConfig.from_parameters({"max_batch": "4"}, {"FLUX_MAX_BATCH": "many"})


def test_capacity_must_let_the_batch_fill() -> None:
    assert read(max_in_flight="16", max_batch="16").max_in_flight == 16
    with pytest.raises(ConfigError, match=r"max_in_flight is 15: must be at least max_batch \(16\)"):
        read(max_in_flight="15", max_batch="16")


def test_size_is_written_width_first_and_kept_height_first() -> None:
    assert parse_size("8192x64") == (64, 8192)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        EngineConfig().max_batch = 3  # type: ignore[misc]


def test_a_step_cache_needs_the_transformer_on_the_device() -> None:
    assert read(step_cache="0.1", offload="sequential").step_cache == 0.1
    with pytest.raises(ConfigError, match="step_cache is on and offload is model"):
        read(step_cache="0.1", offload="model")
