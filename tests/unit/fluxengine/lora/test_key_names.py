"""Names of Black Forest Labs' code mean what diffusers' own converters take them for: at the width that those know."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file

from fluxengine.lora.file import load_lora
from fluxengine.lora.key_names import other_half

WIDTH, MLP, MODULATION = 3072, 12288, 18432
STREAM = {
    "attn.qkv": (3 * WIDTH, WIDTH),
    "attn.proj": (WIDTH, WIDTH),
    "mlp.0": (MLP, WIDTH),
    "mlp.2": (WIDTH, MLP),
    "mod.lin": (MODULATION, WIDTH),
}
LAYERS = {  # outputs, inputs
    **{f"double_blocks.{n}.{s}_{name}": size for n in (0, 1) for s in ("img", "txt") for name, size in STREAM.items()},
    "single_blocks.0.linear1": (3 * WIDTH + MLP, WIDTH),
    "single_blocks.0.linear2": (WIDTH, WIDTH + MLP),
    "single_blocks.0.modulation.lin": (3 * WIDTH, WIDTH),
    "img_in": (WIDTH, 64),
    "txt_in": (WIDTH, 4096),
    "time_in.in_layer": (WIDTH, 256),
    "time_in.out_layer": (WIDTH, WIDTH),
    "vector_in.in_layer": (WIDTH, 768),
    "vector_in.out_layer": (WIDTH, WIDTH),
    "guidance_in.in_layer": (WIDTH, 256),
    "guidance_in.out_layer": (WIDTH, WIDTH),
    "final_layer.linear": (64, WIDTH),
    "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
}
BLOCKS = {"num_layers": 2, "num_single_layers": 1}
FORMS = ("lora_unet_{}.lora_{}.weight", "diffusion_model.{}.lora_{}.weight")


@pytest.fixture(scope="module")
def pipeline() -> Any:
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**BLOCKS, guidance_embeds=True)
    return SimpleNamespace(transformer=transformer, text_encoder=torch.nn.Module(), text_encoder_2=torch.nn.Module())


def read(pipeline: Any, folder: Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of LoRAs of rank 1 that multiply by one: their outputs."""
    save_file(tensors, folder / "some.safetensors")
    lora = load_lora(folder / "some.safetensors", pipeline, torch.device("cpu"))
    for layer, part in lora.transformer.items():
        assert part.down.shape == (1, pipeline.transformer.get_submodule(layer).in_features)
        assert part.scaling == 1
    return {layer: part.up for layer, part in lora.transformer.items()}


def halves(name: str, inputs: int, up: torch.Tensor, form: str) -> dict[str, torch.Tensor]:
    down, up_key = (form.format(name, half) for half in ("down", "up"))
    return {down: torch.ones(1, inputs), up_key: up}


@pytest.mark.parametrize("form", FORMS)
def test_as_diffusers_reads_a_checkpoint(pipeline: Any, tmp_path: Path, form: str) -> None:
    """Weights of [outputs, 1], all different, that diffusers converts: to where, in which parts, in which order."""
    weights: dict[str, torch.Tensor] = {}
    tensors: dict[str, torch.Tensor] = {}
    for n, (name, (outputs, inputs)) in enumerate(LAYERS.items()):
        weights[name] = torch.arange(outputs)[:, None] + n * 100_000.0
        named = name.replace(".", "_") if "unet" in form else name
        tensors |= halves(named, inputs, weights[name], form)
    checkpoint = {f"{name}.weight": weight for name, weight in weights.items()}
    checkpoint |= {f"{name}.bias": torch.zeros(len(weight)) for name, weight in weights.items()}
    for kind in ("query", "key"):
        checkpoint[f"single_blocks.0.norm.{kind}_norm.scale"] = torch.ones(1)
        for n in (0, 1):
            checkpoint |= {f"double_blocks.{n}.{s}_attn.norm.{kind}_norm.scale": torch.ones(1) for s in ("img", "txt")}
    converted = convert_flux_transformer_checkpoint_to_diffusers(checkpoint)
    expected = {key.removesuffix(".weight"): value for key, value in converted.items() if value.ndim == 2}
    found = read(pipeline, tmp_path, tensors)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[layer], weight) for layer, weight in expected.items())


def test_as_diffusers_reads_loras_of_xlabs(pipeline: Any, tmp_path: Path) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for block in (
        "double_blocks.1.processor.{}_lora1",
        "double_blocks.1.processor.{}_lora2",
        "single_blocks.0.processor.{}_lora",
    ):
        for name, outputs in (("qkv", 3 * WIDTH), ("proj", WIDTH)):
            inputs = WIDTH + MLP if block.startswith("single") and name == "proj" else WIDTH
            layer = f"diffusion_model.{block.format(name)}"
            tensors |= {f"{layer}.down.weight": torch.ones(1, inputs), f"{layer}.up.weight": torch.randn(outputs, 1)}
    state: Any = FluxPipeline.lora_state_dict(dict(tensors))
    expected = {key.split(".", 1)[1].removesuffix(".lora_B.weight"): up for key, up in state.items() if "lora_B" in key}
    found = read(pipeline, tmp_path, tensors)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[layer], up) for layer, up in expected.items())


@pytest.mark.parametrize(
    ("half", "other"),
    [
        ("transformer.proj_out.lora_A.weight", "transformer.proj_out.lora_B.weight"),
        ("transformer.proj_out.lora_B.default.weight", "transformer.proj_out.lora_A.default.weight"),
        ("lora_unet_img_in.lora_down.weight", "lora_unet_img_in.lora_up.weight"),
        ("single_blocks.0.processor.qkv_lora.up.weight", "single_blocks.0.processor.qkv_lora.down.weight"),
        ("text_encoder.fc1.lora_linear_layer.down.weight", "text_encoder.fc1.lora_linear_layer.up.weight"),
    ],
)
def test_the_other_half(half: str, other: str) -> None:
    assert other_half(half) == other
    assert other_half(other) == half
