"""The LoRAs that ship: small, of the stated shape, read by plain diffusers, and they do what their names say."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from tools.tiny_flux.prompts import Scene, caption
from tools.triton.installation import PROJECT

torch = pytest.importorskip("torch")
pytest.importorskip("peft")
diffusers = pytest.importorskip("diffusers")

MODEL = PROJECT / "model_repository/flux/1/flux-tiny"
FOLDER = MODEL.with_name("flux-tiny-loras")
SHAPES = {"greyscale": (8, 16), "outline": (16, 16)}  # rank, alpha
SCENE = Scene("apple", None, "green", "large")

Draw = Callable[..., Any]


@pytest.fixture(scope="module")
def pipe() -> Any:
    made = diffusers.FluxPipeline.from_pretrained(MODEL)
    made.set_progress_bar_config(disable=True)
    return made


def draw(pipe: Any) -> Any:
    """A picture of 64×64 in two steps, [64, 64, 3], 0…1."""
    return pipe(
        caption(SCENE),
        height=64,
        width=64,
        num_inference_steps=2,
        max_sequence_length=24,
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="np",
    ).images[0]


@pytest.fixture(scope="module")
def plain(pipe: Any) -> Any:
    """The picture before any LoRA is loaded."""
    return draw(pipe)


@pytest.fixture(scope="module")
def loaded(pipe: Any, plain: Any) -> None:
    """The pipeline carries all LoRAs from here on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)  # two at once is what we mean
        for name in SHAPES:
            pipe.load_lora_weights(FOLDER, weight_name=f"{name}.safetensors", adapter_name=name)


@pytest.fixture(scope="module")
def draw_with(pipe: Any, loaded: None) -> Draw:
    """Draws with LoRAs at the given scales; those not named are at 0."""

    def drawn(**scales: float) -> Any:
        pipe.set_adapters(list(SHAPES), [scales.get(name, 0.0) for name in SHAPES])
        return draw(pipe)

    return drawn


def chroma(picture: Any) -> float:
    """Mean over the pixels of the largest less the smallest of red, green and blue, of 1."""
    return float(np.ptp(picture, axis=-1).mean())


def test_the_folder_holds_just_these_and_their_license() -> None:
    assert {file.stem for file in FOLDER.glob("*.safetensors")} == set(SHAPES)
    assert "SIL OPEN FONT LICENSE" in (FOLDER / "LICENSE").read_text()


@pytest.mark.parametrize("name", SHAPES)
def test_each_file_is_small_and_has_the_stated_rank(name: str) -> None:
    file = FOLDER / f"{name}.safetensors"
    assert file.stat().st_size <= 1.5 * 2**20
    rank, alpha = SHAPES[name]
    with safe_open(file, "pt") as opened:
        stated = json.loads(opened.metadata()["lora_adapter_metadata"])
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    assert (stated["transformer.r"], stated["transformer.lora_alpha"]) == (rank, alpha)
    assert {shape[0] for key, shape in shapes.items() if key.endswith("lora_A.weight")} == {rank}
    assert {shape[1] for key, shape in shapes.items() if key.endswith("lora_B.weight")} == {rank}
    assert all(key.startswith("transformer.") for key in shapes)


def test_every_attention_and_feed_forward_layer_carries_both(pipe: Any, loaded: None) -> None:
    layers = {name: module for name, module in pipe.transformer.named_modules() if hasattr(module, "lora_A")}
    doubles, singles = pipe.transformer.config.num_layers, pipe.transformer.config.num_single_layers
    assert len(layers) == 12 * doubles + 5 * singles
    factors = {name: alpha / rank for name, (rank, alpha) in SHAPES.items()}
    assert all(module.scaling.keys() == factors.keys() for module in layers.values())
    pipe.set_adapters(list(SHAPES), [1.0, 1.0])
    assert all(module.scaling == factors for module in layers.values())


def test_greyscale_takes_the_colour_away_the_more_the_higher_its_scale(plain: Any, draw_with: Draw) -> None:
    half, full = (chroma(draw_with(greyscale=scale)) for scale in (0.5, 1.0))
    assert full < half < chroma(plain)
    assert full < chroma(plain) / 3


def test_outline_draws_on_white(plain: Any, draw_with: Draw) -> None:
    lines = draw_with(outline=1.0)
    assert np.median(lines[:3]) > 0.85
    assert chroma(lines) < chroma(plain) / 3


def test_at_scale_0_the_picture_is_the_plain_one(plain: Any, draw_with: Draw) -> None:
    assert np.array_equal(draw_with(), plain)
