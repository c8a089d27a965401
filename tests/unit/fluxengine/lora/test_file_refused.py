"""A LoRA file with anything that is not applied is refused: in a short text that says why, and at which of its keys."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file

from fluxengine.errors import InvalidArgument, NotFound
from fluxengine.lora.file import load_lora
from tests.unit.fluxengine.lora_files import (
    FIRST,
    SCHEMES,
    Read,
    Tensors,
    assert_equal,
    deltas,
    linear_layers,
    tensors_for,
)


def refusal(read: Read, tensors: Tensors) -> str:
    with pytest.raises(InvalidArgument) as raised:
        read(tensors)
    assert len(str(raised.value)) <= 500
    assert raised.value.cause == "lora"
    return raised.value.problem


def _extra(name: str, value: torch.Tensor | None = None) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.ones(4, 4) if value is None else value}


def _replaced(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key.replace(old, new): value for key, value in tensors.items()}


REFUSED = {
    "LoKr": (_extra("lora_unet_double_blocks_0_img_mlp_0.lokr_w1"), "it has LoKr: 1 of its"),
    "LoHa": (_extra(f"transformer.{FIRST}.hada_w1_a"), "it has LoHa"),
    "DoRA": (_extra(f"transformer.{FIRST}.lora_magnitude_vector"), "it has DoRA"),
    "DoRA of others": (_extra("lora_unet_double_blocks_0_img_mlp_0.dora_scale"), "it has DoRA"),
    "scaled float8": (_extra(f"transformer.{FIRST}.lora_A.scale_weight"), "it has scaled float8"),
    "PEFT's biases": (_extra(f"transformer.{FIRST}.lora_B.bias"), "it has biases"),
    "ComfyUI's biases": (_extra("diffusion_model.double_blocks.0.img_mlp.0.diff_b"), "it has biases"),
    "a norm": (_extra("transformer.transformer_blocks.0.attn.norm_q.weight"), "it has normalisation layers"),
    "norms of a Control LoRA": (_extra("single_blocks.0.norm.query_norm.scale"), "it has normalisation layers"),
    "a norm's difference": (
        _extra("diffusion_model.single_blocks.0.norm.key_norm.diff"),
        "it has normalisation layers",
    ),
    "a difference": (_extra("diffusion_model.double_blocks.0.img_mlp.0.diff"), "it has whole weights"),
    "a whole weight": (_extra("transformer.proj_out.weight"), "keys that are of no LoRA: 1 of its"),
    "SDXL": (_extra("lora_unet_input_blocks_4_1_proj_in.alpha"), "is made for another model"),
    "SDXL's second text encoder": (
        _extra("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"),
        "is made for another model",
    ),
    "a deeper FLUX": (_replaced("transformer_blocks.0.", "transformer_blocks.18."), "2 double and 2 single blocks"),
    "a layer misnamed": (_replaced("attn.to_q", "attn.q_proj"), "is made for another model, or its names are unknown"),
    "an alpha alone": (_extra("lora_unet_double_blocks_0_img_mlp_0.alpha"), "has alphas without weights: 1 of its"),
    "an alpha of many": (_extra(f"transformer.{FIRST}.alpha", torch.ones(4)), "an alpha that is no number"),
    "an alpha that is none": (
        _extra(f"transformer.{FIRST}.alpha", torch.tensor(torch.nan)),
        "an alpha that is no number",
    ),
    "another width": (
        _extra(f"transformer.{FIRST}.lora_A.weight", torch.ones(1, 65)),
        "64 inputs and 64 outputs: 1 of",
    ),
    "another rank": (_extra(f"transformer.{FIRST}.lora_A.weight", torch.ones(9, 64)), "is made for another model"),
    "no rank": (
        lambda tensors: (
            tensors
            | {
                f"transformer.{FIRST}.lora_A.weight": torch.ones(0, 64),
                f"transformer.{FIRST}.lora_B.weight": torch.ones(64, 0),
            }
        ),
        "is made for another model",
    ),
    "a convolution": (
        _extra(f"transformer.{FIRST}.lora_A.weight", torch.ones(1, 64, 1, 1)),
        "is made for another model",
    ),
    "integers": (
        lambda tensors: {key: value.to(torch.int8) for key, value in tensors.items()},
        "has numbers of type I8, not BF16, F16, F32, F64, F8_E4M3 or F8_E5M2",
    ),
    "a layer twice": (_extra(f"{FIRST}.lora_A.weight"), "twice: 2 of its"),
    "a layer twice by other names": (
        lambda tensors: (
            tensors
            | {
                "double_blocks.0.img_attn.qkv.lora_A.weight": torch.ones(1, 64),
                "double_blocks.0.img_attn.qkv.lora_B.weight": torch.ones(192, 1),
            }
        ),
        f"changes {FIRST} twice",
    ),
    "no number": (
        lambda tensors: tensors | {f"transformer.{FIRST}.lora_B.weight": torch.full((64, 1), torch.inf)},
        "values that are no numbers",
    ),
    "nothing": (lambda tensors: {}, "has no weights for this model"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_and_why(read: Read, pipeline: Any, kind: str) -> None:
    change, problem = REFUSED[kind]
    layers = linear_layers(pipeline.transformer)
    tensors = tensors_for({name: layers[name] for name in (FIRST, "transformer_blocks.0.ff.net.2", "proj_out")})
    assert len(read(tensors).transformer) == 3
    text = refusal(read, change(tensors))
    assert text.startswith("'some' ")
    assert problem in text


def test_many_long_keys_make_no_long_text(read: Read) -> None:
    tensors = {f"{'x' * 600}_{n}.lora_up.weight": torch.ones(1, 1) for n in range(500)}
    assert "500 of its 500 keys, the first 'xxx" in refusal(read, tensors)


def test_any_half_that_is_lost(read: Read, pipeline: Any) -> None:
    layers = linear_layers(pipeline.transformer)
    for seed in range(20):
        chance = random.Random(seed)
        prefix, dots, halves = chance.choice(list(SCHEMES.values()))
        tensors = tensors_for(layers, prefix, halves, chance.choice([None, 2.0]), dots)
        names = [key.removesuffix(f".{halves[0]}") for key in tensors if key.endswith(halves[0])]
        lost = [f"{name}.{chance.choice(halves)}" for name in chance.sample(names, chance.randint(1, len(names)))]
        for key in lost:
            del tensors[key]
        text = refusal(read, tensors)
        assert any(f"lacks weights, such as '{key}'" in text for key in lost)
        assert f"{len(lost)} of its {len(tensors)} keys, the first '" in text


@pytest.mark.parametrize(
    "zeros",
    [
        ("diffusion_model.double_blocks.0.img_mlp.0.diff_b",),
        ("diffusion_model.double_blocks.0.img_attn.norm.key_norm.diff",),
        (
            "text_encoders.t5xxl.transformer.shared.lora_down.weight",
            "text_encoders.t5xxl.transformer.shared.lora_up.weight",
        ),
        ("lora_te1_text_projection.lora_down.weight", "lora_te1_text_projection.lora_up.weight"),
    ],
)
def test_what_is_zero_need_not_be_known(read: Read, pipeline: Any, zeros: tuple[str, ...]) -> None:
    tensors = tensors_for({FIRST: pipeline.transformer.get_submodule(FIRST)})
    expected = deltas(read(tensors))
    assert_equal(deltas(read(tensors | {key: torch.zeros(4, 4) for key in zeros})), expected)
    text = refusal(read, tensors | {key: torch.ones(4, 4) for key in zeros})
    assert f"{len(zeros)} of its {2 + len(zeros)} keys, the first '{zeros[0]}'" in text


def test_values_that_the_model_cannot_hold(guided_checkpoint: Path, tmp_path: Path) -> None:
    from_pretrained: Any = FluxPipeline.from_pretrained
    pipeline = from_pretrained(guided_checkpoint, dtype=torch.float16)
    tensors = tensors_for({FIRST: pipeline.transformer.get_submodule(FIRST)})
    for factor, holds in ((1.0, True), (1e6, False)):
        path = tmp_path / "some.safetensors"
        save_file({key: value * factor for key, value in tensors.items()}, path)
        if holds:
            assert load_lora(path, pipeline, torch.device("cpu")).transformer[FIRST].up.dtype == torch.float16
            continue
        with pytest.raises(InvalidArgument, match=r"too large for torch\.float16: 1 of its 2 keys"):
            load_lora(path, pipeline, torch.device("cpu"))


def test_a_broken_file(pipeline: Any, tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    with pytest.raises(NotFound, match="'some' cannot be read"):
        load_lora(path, pipeline, torch.device("cpu"))
    save_file(tensors_for(linear_layers(pipeline.transformer)), path)
    whole = path.read_bytes()
    for length in (0, 7, 8, 1000, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InvalidArgument, match="'some' cannot be used"):
            load_lora(path, pipeline, torch.device("cpu"))
