"""Each key of a LoRA file is applied, as numbers that are computed from the file itself say."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file

from fluxengine.families.flux1.flux1 import Flux1
from tests.unit.fluxengine.lora_files import (
    AB,
    DOWN_UP,
    SCHEMES,
    Read,
    Tensors,
    assert_equal,
    deltas,
    linear_layers,
    products,
    tensors_for,
)


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_layer_by_every_scheme(read: Read, pipeline: Any, scheme: str, alpha: float | None) -> None:
    prefix, dots, halves = SCHEMES[scheme]
    layers = linear_layers(pipeline.transformer)
    tensors = tensors_for(layers, prefix, halves, alpha, dots)
    lora = read(tensors)
    assert_equal(deltas(lora), dict(zip(layers, products(tensors, halves), strict=True)))
    assert not lora.text_encoder and not lora.text_encoder_2


@pytest.mark.parametrize(
    ("network", "prefix", "dots", "halves"),
    [
        ("text_encoder", "text_encoder.", ".", AB),
        (
            "text_encoder",
            "text_encoder.text_model.",
            ".",
            ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
        ),
        ("text_encoder", "text_encoders.clip_l.transformer.text_model.", ".", DOWN_UP),
        ("text_encoder", "lora_te_text_model_", "_", DOWN_UP),
        ("text_encoder", "lora_te1_text_model_", "_", DOWN_UP),
        ("text_encoder_2", "text_encoder_2.", ".", AB),
        ("text_encoder_2", "text_encoders.t5xxl.transformer.", ".", DOWN_UP),
        ("text_encoder_2", "lora_te2_", "_", DOWN_UP),
        ("text_encoder_2", "lora_te3_", "_", DOWN_UP),
    ],
)
def test_every_layer_of_the_text_encoders(
    read: Read, pipeline: Any, network: str, prefix: str, dots: str, halves: tuple[str, str]
) -> None:
    layers = linear_layers(getattr(pipeline, network))
    tensors = tensors_for(layers, prefix, halves, 5.0, dots)
    lora = read(tensors)
    assert_equal(deltas(lora, network), dict(zip(layers, products(tensors, halves), strict=True)))
    assert not lora.transformer


def test_layers_of_several_schemes_in_one_file(read: Read, pipeline: Any) -> None:
    """Any subset of layers, each named as some scheme has it."""
    layers = linear_layers(pipeline.transformer)
    for seed in range(20):
        chance = random.Random(seed)
        expected: Tensors = {}
        tensors: Tensors = {}
        for name in chance.sample(list(layers), chance.randint(1, len(layers))):
            prefix, dots, halves = chance.choice(list(SCHEMES.values()))
            some = tensors_for({name: layers[name]}, prefix, halves, chance.choice([None, 0.5, 32.0]), dots)
            (expected[name],) = products(some, halves)
            tensors |= some
        assert_equal(deltas(read(tensors)), expected)


def test_parts_of_one_layer_that_kohya_names_as_one(read: Read, pipeline: Any) -> None:
    """Of a network of any width. Here each part was trained apart, as with sd-scripts' split_qkv."""
    sizes = {"attn.to_q": 64, "attn.to_k": 64, "attn.to_v": 64, "proj_mlp": 256}
    block_diag: Any = torch.block_diag
    ups = [torch.randn(size, 2) for size in sizes.values()]
    tensors = {
        "lora_unet_single_blocks_1_linear1.lora_down.weight": torch.randn(8, 64),
        "lora_unet_single_blocks_1_linear1.lora_up.weight": block_diag(*ups),
        "lora_unet_single_blocks_1_linear1.alpha": torch.tensor(2.0),
    }
    lora = read(tensors)
    (whole,) = products(tensors, DOWN_UP)
    parts = zip(sizes, torch.split(whole, list(sizes.values())), strict=True)
    assert_equal(deltas(lora), {f"single_transformer_blocks.1.{name}": delta for name, delta in parts})
    assert {len(part.down) for part in lora.transformer.values()} == {2}, "ranks that do nothing are left out"


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_numbers_of_any_dtype(read: Read, pipeline: Any, dtype: torch.dtype) -> None:
    layers = linear_layers(pipeline.transformer)
    tensors = tensors_for(layers, "lora_unet_", DOWN_UP, 4.0, "_")
    tensors = {key: value.to(dtype) for key, value in tensors.items()}
    expected = products({key: value.float() for key, value in tensors.items()}, DOWN_UP)
    assert_equal(deltas(read(tensors)), dict(zip(layers, expected, strict=True)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_t5_encodes(guided_checkpoint: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """As with the weights changed: in float16, T5 keeps some of its layers in float32."""
    from_pretrained: Any = FluxPipeline.from_pretrained
    pipeline = from_pretrained(guided_checkpoint, dtype=dtype)
    family = Flux1(pipeline, torch.device("cpu"), 32)
    tensors = tensors_for(linear_layers(pipeline.text_encoder_2), "text_encoder_2.")
    tensors = {key: value * 0.1 for key, value in tensors.items()}
    save_file(tensors, tmp_path / "some.safetensors")
    lora = family.load_lora(tmp_path / "some.safetensors")
    with torch.no_grad():
        plain, changed = family.encode(family.tokenize(["a fox", "a fox"]), [(), ((lora, 0.5),)])
        for layer, delta in deltas(lora, "text_encoder_2").items():
            pipeline.text_encoder_2.get_submodule(layer).weight += 0.5 * delta
        (expected,) = family.encode(family.tokenize(["a fox"]))
    embeds = expected["encoder_hidden_states"]
    torch.testing.assert_close(changed["encoder_hidden_states"], embeds, rtol=0.02, atol=0.02)
    assert (plain["encoder_hidden_states"] - embeds).abs().max() > 0.2
    assert torch.equal(plain["pooled_projections"], changed["pooled_projections"])
