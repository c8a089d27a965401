from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from fluxengine.config import EngineConfig
from fluxengine.errors import ConfigError
from fluxengine.families.flux1.flux1 import Flux1
from fluxengine.families.flux1.parts import FLUX1
from fluxengine.load.checkpoint import load_family
from fluxengine.load.serving_file import SERVING_FILE
from fluxengine.wire.inputs import FAMILY_INPUTS
from fluxengine.wire.limits import Defaults, Limits, limits_of

CPU = torch.device("cpu")
DEFAULTS = Defaults(steps=28, guidance=3.5, size=(1024, 512), max_size=(2048, 2048))


@pytest.fixture
def home(tmp_path: Path, guided_checkpoint: Path) -> Path:
    """A version folder with one checkpoint in it."""
    shutil.copytree(guided_checkpoint, tmp_path / "flux-tiny")
    return tmp_path


def serve_with(home: Path, text: str) -> None:
    (home / "flux-tiny" / SERVING_FILE).write_text(text)


def test_a_folder_beside_the_model_goes_first(home: Path) -> None:
    family = load_family(EngineConfig(dtype="float32"), home, CPU)
    assert family.guided
    assert (family.device, family.dtype) == (CPU, torch.float32)
    assert family.max_sequence_length == 512
    assert family.defaults == Defaults(steps=28, guidance=3.5, size=(1024, 1024), max_size=(2048, 2048))


def test_a_folder_anywhere_else(guided_checkpoint: Path, tmp_path: Path) -> None:
    config = EngineConfig(model=str(guided_checkpoint), dtype="bfloat16", max_sequence_length=64)
    family = load_family(config, tmp_path, CPU)
    assert family.dtype is torch.bfloat16
    assert family.max_sequence_length == 64


def test_the_checkpoint_says_what_it_wants_to_be_served_with(home: Path) -> None:
    serving = {
        "default_steps": 8,
        "default_guidance": 2.5,
        "default_size": "128x96",
        "max_size": "256x512",
        "max_sequence_length": 32,
    }
    serve_with(home, json.dumps(serving))
    family = load_family(EngineConfig(), home, CPU)
    assert family.defaults == Defaults(steps=8, guidance=2.5, size=(96, 128), max_size=(512, 256))
    assert family.max_sequence_length == 32
    assert load_family(EngineConfig(max_sequence_length=16), home, CPU).max_sequence_length == 16


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"default_steps": "many"}', "'default_steps' is 'many': must be an integer"),
        ('{"default_steps": 0}', "'default_steps' is '0': must be an integer from 1"),
        ('{"default_guidance": "strong"}', "'default_guidance' is 'strong': must be a number"),
        ('{"default_size": "100x100"}', "'default_size' is '100x100': .* must be multiples of 16"),
        ('{"max_size": 1024}', "'max_size' is '1024': must be WIDTHxHEIGHT"),
        ('{"max_sequence_length": 1024}', "'max_sequence_length' is '1024': must be an integer"),
        ('{"default_step": 8}', "unknown key 'default_step'"),
        ('{"max_batch": 8}', "unknown key 'max_batch'"),
    ],
    ids=str,
)
def test_a_checkpoint_that_says_it_wrong_is_refused(home: Path, text: str, problem: str) -> None:
    serve_with(home, text)
    with pytest.raises(ConfigError, match=problem) as caught:
        load_family(EngineConfig(), home, CPU)
    assert SERVING_FILE in str(caught.value)


@pytest.mark.filterwarnings(
    "ignore:.*local_dir_use_symlinks:UserWarning"
)  # diffusers still passes it to the hub's client
def test_a_model_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"model is 'no/such-model': neither a folder .* nor a hub name"):
        load_family(EngineConfig(model="no/such-model"), tmp_path, CPU)


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("", "is a folder without model_index.json; must be a folder in diffusers' format"),
        ("vae", "there is no folder vae"),
        ("tokenizer_2", "there is no folder tokenizer_2"),
        ("scheduler", "cannot be loaded: "),
    ],
)
def test_a_part_that_is_missing(home: Path, part: str, problem: str) -> None:
    folder = home / "flux-tiny" / part
    shutil.rmtree(folder)
    if not part:
        folder.mkdir()
    with pytest.raises(ConfigError, match=f"model is 'flux-tiny': {problem}"):
        load_family(EngineConfig(), home, CPU)


@pytest.mark.parametrize(
    ("part", "smaller", "problem"),
    [
        (
            "text_encoder_2",
            {"d_model": 32},
            "transformer is for a text_encoder_2 of 48 channels, but text_encoder_2 has 32",
        ),
        (
            "text_encoder",
            {"hidden_size": 16},
            "transformer is for a text_encoder of 32 channels, but text_encoder has 16",
        ),
        ("vae", {"latent_channels": 4}, "transformer is for a vae of 16 channels, but vae has 4"),
    ],
)
def test_parts_of_different_models(home: Path, part: str, smaller: dict[str, int], problem: str) -> None:
    folder = home / "flux-tiny" / part
    kind = FLUX1.networks[part].kind
    config = json.loads((folder / "config.json").read_text()) | smaller
    other = kind.from_config(config) if part == "vae" else kind(kind.config_class(**config))
    other.save_pretrained(folder)
    with pytest.raises(ConfigError, match=f"model is 'flux-tiny': {problem}"):
        load_family(EngineConfig(), home, CPU)


def test_weights_of_a_variant_draw_the_same(home: Path, guided_checkpoint: Path) -> None:
    for file in (home / "flux-tiny").rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    with pytest.raises(ConfigError, match="set the parameter variant: fp16"):
        load_family(EngineConfig(), home, CPU)
    family: Any = load_family(EngineConfig(variant="fp16", dtype="float32"), home, CPU)
    plain: Any = load_family(EngineConfig(model=str(guided_checkpoint), dtype="float32"), home, CPU)
    for name in FLUX1.networks:
        ours, theirs = (getattr(one.pipeline, name).state_dict() for one in (family, plain))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_dtype_is_the_one_that_the_processor_multiplies(
    home: Path, monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    assert load_family(EngineConfig(), home, CPU).dtype is dtype


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torchao's imports
def test_the_parameters_of_loading_reach_the_networks(home: Path) -> None:
    config = EngineConfig(
        dtype="float32", quantization="int8_weight_only", attention_backend="_native_math", vae_slicing=True
    )
    family = load_family(config, home, CPU)
    assert isinstance(family, Flux1)
    block = family.pipeline.transformer.transformer_blocks[0]
    assert type(block.attn.to_q.weight).__name__ == "Int8Tensor"
    assert block.attn.processor._attention_backend == "_native_math"
    assert family.pipeline.vae.use_slicing and not family.pipeline.vae.use_tiling


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (EngineConfig(quantization="nf4"), "quantization is 'nf4': needs a GPU"),
        (EngineConfig(attention_backend="sage"), "attention_backend is 'sage': does not work here"),
        (EngineConfig(offload="model"), "offload is 'model': needs a GPU"),
        (EngineConfig(compile="reduce-overhead"), "compile is 'reduce-overhead': it records CUDA graphs"),
    ],
    ids=["quantization", "attention_backend", "offload", "compile"],
)
def test_what_this_device_cannot_do_stops_the_load(home: Path, config: EngineConfig, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_family(config, home, CPU)


def test_the_operator_goes_before_the_checkpoint() -> None:
    assert limits_of(EngineConfig(), DEFAULTS, FAMILY_INPUTS) == Limits(28, 100, 3.5, (1024, 512), (2048, 2048), 8, 8)
    config = EngineConfig(
        default_steps=4,
        max_steps=8,
        default_guidance=0.0,
        default_size=(64, 128),
        max_size=(128, 128),
        max_images=2,
        max_loras=3,
    )
    assert limits_of(config, DEFAULTS, FAMILY_INPUTS) == Limits(4, 8, 0.0, (64, 128), (128, 128), 2, 3)


def test_defaults_are_within_the_limits() -> None:
    with pytest.raises(ConfigError, match=r"default_steps is 28: more than max_steps \(20\)"):
        limits_of(EngineConfig(max_steps=20), DEFAULTS, FAMILY_INPUTS)
    with pytest.raises(ConfigError, match=r"default_size .* is .1024, 512.: larger than max_size .512, 2048."):
        limits_of(EngineConfig(max_size=(512, 2048)), DEFAULTS, FAMILY_INPUTS)
