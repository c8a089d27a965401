"""Quantized models really draw, the same for a row alone and among others."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from fluxengine.config import EngineConfig
from fluxengine.errors import ConfigError
from fluxengine.load import quantization
from fluxengine.load.checkpoint import load_family
from fluxengine.load.gguf_file import check_gguf
from fluxengine.load.quantization import pipeline_options
from fluxengine.setting_values import QUANTIZATIONS
from tools.triton.installation import PROJECT

CPU = torch.device("cpu")
TINY = PROJECT / "model_repository/flux/1/flux-tiny"
GPU_ONLY = {"fp8_dynamic": "a GPU of compute capability 8.9 or newer", "nf4": "a GPU of compute capability 7.0"}

# Told by libraries to each other while they are imported and load.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def load(method: str, home: Path = TINY, dtype: torch.dtype = torch.float32) -> Any:
    options = pipeline_options(method, TINY, home, CPU, dtype)
    pipeline: Any = FluxPipeline.from_pretrained(TINY, dtype=dtype, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.inference_mode()
def draw(pipeline: Any) -> torch.Tensor:
    """[H, W, 3] in 0…1"""
    picture: torch.Tensor = pipeline(
        "a large apple on a green background",
        height=64,
        width=64,
        num_inference_steps=4,
        max_sequence_length=32,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).images[0]
    return picture.float()


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return draw(load("none"))


def psnr(picture: torch.Tensor, wanted: torch.Tensor) -> float:
    return float(-10 * torch.log10(((picture - wanted) ** 2).mean()))


@torch.inference_mode()
def predict(transformer: Any, rows: slice) -> torch.Tensor:
    """Three rows, the first many times as large as the others."""
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(3, 16, 64, generator=generator) * torch.tensor([50.0, 1.0, 0.1])[:, None, None]
    text = torch.randn(3, 8, 128, generator=generator)
    velocity: torch.Tensor = transformer(
        hidden_states=latents[rows],
        timestep=torch.tensor([1.0, 0.5, 0.1])[rows],
        guidance=torch.full((3,), 3.5)[rows],
        txt_ids=torch.zeros(8, 3),
        img_ids=torch.zeros(16, 3),
        encoder_hidden_states=text[rows],
        pooled_projections=text.mean(1)[rows],
        return_dict=False,
    )[0]
    return velocity


@pytest.mark.parametrize(
    ("method", "least_psnr"),
    [("int8_weight_only", 45), ("int8_dynamic", 40), ("fp8_weight_only", 35), ("nvfp4", 22)],
)
def test_quantized_models_draw_nearly_the_same_and_rows_stay_apart(
    plain: torch.Tensor, method: str, least_psnr: float
) -> None:
    pipeline = load(method)
    for network in (pipeline.transformer, pipeline.text_encoder_2):
        linear = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Linear))
        assert type(linear.weight) not in (torch.nn.Parameter, torch.Tensor)
    picture = draw(pipeline)
    assert least_psnr < psnr(picture, plain) < 80, "as good as this kind should be, and not the same"
    together = predict(pipeline.transformer, slice(0, 3))
    for row in range(3):
        alone = predict(pipeline.transformer, slice(row, row + 1))[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max()))


def write_gguf(path: Path, kind: gguf.GGMLQuantizationType, **changes: torch.Tensor | None) -> None:
    """flux-tiny's transformer: the weights of its linear layers quantized, the rest as float32; None leaves one out."""
    transformer = FluxTransformer2DModel.from_pretrained(TINY, subfolder="transformer", dtype=torch.float32)
    writer = gguf.GGUFWriter(path, "flux")
    for name, tensor in {**transformer.state_dict(), **changes}.items():
        if tensor is None:
            continue
        values: np.ndarray[Any, Any] = tensor.numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("kind", "least_psnr"), [("Q8_0", 45), ("Q4_0", 18)])
def test_a_gguf_file_beside_the_model(plain: torch.Tensor, tmp_path: Path, kind: str, least_psnr: float) -> None:
    write_gguf(tmp_path / "tiny.gguf", gguf.GGMLQuantizationType[kind])
    pipeline = load("gguf:tiny.gguf", home=tmp_path)
    assert type(pipeline.transformer.transformer_blocks[0].attn.to_q).__name__ == "GGUFLinear"
    assert least_psnr < psnr(draw(pipeline), plain) < 80
    together = predict(pipeline.transformer, slice(0, 3))
    torch.testing.assert_close(together[1:2], predict(pipeline.transformer, slice(1, 2)), rtol=1e-4, atol=1e-4)


def test_a_gguf_file_that_is_not_there_or_not_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"quantization is 'gguf:none.gguf': there is no such file"):
        load("gguf:none.gguf", home=tmp_path)
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(
        ConfigError, match=r"quantization is 'gguf:text.gguf': .*text.gguf is not a transformer of this"
    ):
        load("gguf:text.gguf", home=tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"x_embedder.bias": None, "proj_out.bias": None},
            "tiny.gguf lacks 2 of the model's weights, the first 'proj_out.bias'",
        ),
        ({"more": torch.zeros(2)}, "tiny.gguf has 1 weights that the model does not know, the first 'more'"),
        (
            {"x_embedder.bias": torch.zeros(3)},
            "tiny.gguf: 'x_embedder.bias' is [3] in the file but [192] by config.json",
        ),
    ],
)
def test_a_gguf_file_that_is_not_whole(tmp_path: Path, changes: dict[str, torch.Tensor | None], words: str) -> None:
    write_gguf(tmp_path / "tiny.gguf", gguf.GGMLQuantizationType.Q8_0, **changes)
    with pytest.raises(ConfigError, match=re.escape(words)):
        load("gguf:tiny.gguf", home=tmp_path)


def original_names(layers: int, singles: int) -> list[tuple[str, list[int]]]:
    """The names and shapes of FLUX.1 [schnell] in Black Forest Labs' own code, with fewer layers."""
    linears = {
        "img_in": (3072, 64),
        "txt_in": (3072, 4096),
        "time_in.in_layer": (3072, 256),
        "time_in.out_layer": (3072, 3072),
        "vector_in.in_layer": (3072, 768),
        "vector_in.out_layer": (3072, 3072),
        "final_layer.linear": (64, 3072),
        "final_layer.adaLN_modulation.1": (6144, 3072),
    }
    scales = []
    for block in (f"double_blocks.{n}.{part}" for n in range(layers) for part in ("img", "txt")):
        linears |= {f"{block}_mod.lin": (18432, 3072), f"{block}_attn.qkv": (9216, 3072)}
        linears |= {
            f"{block}_attn.proj": (3072, 3072),
            f"{block}_mlp.0": (12288, 3072),
            f"{block}_mlp.2": (3072, 12288),
        }
        scales += [f"{block}_attn.norm.query_norm.scale", f"{block}_attn.norm.key_norm.scale"]
    for block in (f"single_blocks.{n}" for n in range(singles)):
        linears |= {f"{block}.modulation.lin": (9216, 3072)}
        linears |= {f"{block}.linear1": (21504, 3072), f"{block}.linear2": (3072, 15360)}
        scales += [f"{block}.norm.query_norm.scale", f"{block}.norm.key_norm.scale"]
    matrices = [(f"{name}.weight", list(shape)) for name, shape in linears.items()]
    return matrices + [(f"{name}.bias", [rows]) for name, (rows, _) in linears.items()] + [(s, [128]) for s in scales]


@pytest.mark.parametrize(
    ("edit", "layers", "words"),
    [
        (lambda weights: weights, 1, None),
        (
            lambda weights: weights,
            2,
            "lacks 32 of the model's weights, the first 'transformer_blocks.1.attn.add_k_proj.bias'",
        ),
        (lambda weights: [*weights, ("more.weight", [3])], 1, "does not know, the first 'more.weight'"),
        (
            lambda weights: [*weights, ("img_in.scale_weight", [1])],
            1,
            "the first 'img_in.scale_weight': float8 weights",
        ),
        (lambda weights: [w for w in weights if w[0] != "img_in.bias"], 1, "img_in.bias"),
    ],
)
def test_the_names_of_published_gguf_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Any, layers: int, words: str | None
) -> None:
    """Their tensors are too large for a test, so a reader of the names and shapes alone stands in for the file's."""
    config = {"num_layers": layers, "num_single_layers": 1, "guidance_embeds": False}
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel", **config}))
    tensors = [SimpleNamespace(name=name, shape=shape[::-1]) for name, shape in edit(original_names(1, 1))]
    monkeypatch.setattr(gguf, "GGUFReader", lambda path: SimpleNamespace(tensors=tensors))
    if words is None:
        check_gguf(tmp_path / "flux.gguf", tmp_path)
        return
    with pytest.raises(ConfigError, match=re.escape(words)):
        check_gguf(tmp_path / "flux.gguf", tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may be able to")
@pytest.mark.parametrize(("method", "need"), GPU_ONLY.items())
def test_what_a_cpu_cannot_do_is_refused(method: str, need: str) -> None:
    with pytest.raises(
        ConfigError, match=f"quantization is {method!r}: needs {need}.*; possible here: none, int8_"
    ) as caught:
        load(method, dtype=torch.bfloat16)
    possible = str(caught.value).partition("possible here: ")[2]
    assert not set(GPU_ONLY) & set(possible.replace(",", " ").split())
    assert "gguf:FILE" in possible


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU does it without help")
def test_nf4_weights_and_a_folder_of_them(plain: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes can do it on a CPU as well, diffusers only asks for a GPU first."""
    pytest.importorskip("bitsandbytes", reason="not installed here, as it makes each start of a model slower")
    from diffusers.quantizers.bitsandbytes.bnb_quantizer import BnB4BitDiffusersQuantizer

    with pytest.raises(ConfigError, match="needs a GPU"):
        load("nf4")
    monkeypatch.setitem(quantization._METHODS, "nf4", replace(quantization._METHODS["nf4"], gpu=None))
    monkeypatch.setattr(BnB4BitDiffusersQuantizer, "validate_environment", lambda *_, **__: None)
    monkeypatch.setattr(BnB4BitDiffusersQuantizer, "update_device_map", lambda _, given: given or {"": "cpu"})
    pipeline = load("nf4")
    assert type(pipeline.transformer.transformer_blocks[0].attn.to_q).__name__ == "Linear4bit"
    picture = draw(pipeline)
    assert 25 < psnr(picture, plain) < 80
    together = predict(pipeline.transformer, slice(0, 3))
    torch.testing.assert_close(together[1:2], predict(pipeline.transformer, slice(1, 2)), rtol=1e-3, atol=1e-3)

    pipeline.save_pretrained(tmp_path)
    family: Any = load_family(EngineConfig(model=str(tmp_path), dtype="float32"), tmp_path, CPU)
    assert type(family.pipeline.transformer.transformer_blocks[0].attn.to_q).__name__ == "Linear4bit"
    torch.testing.assert_close(draw(family.pipeline), picture, rtol=0, atol=1e-4)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="cannot be loaded: No GPU found"):
        load_family(EngineConfig(model=str(tmp_path), dtype="float32"), tmp_path, CPU)


def test_a_package_or_a_dtype_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    with pytest.raises(
        ConfigError, match="quantization is 'fp8_dynamic': needs dtype bfloat16; possible here: none, int8"
    ):
        pipeline_options("fp8_dynamic", TINY, TINY, gpu, torch.float16)
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the Python package bitsandbytes; possible here: none \\("):
        pipeline_options("nf4", TINY, TINY, gpu, torch.bfloat16)


def test_fp8_takes_one_scale_for_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    options = pipeline_options("fp8_dynamic", TINY, TINY, torch.device("cuda:0"), torch.bfloat16)
    config = options["quantization_config"].quant_mapping["transformer"].quant_type
    assert [type(granularity).__name__ for granularity in config.granularity] == ["PerRow", "PerRow"]


def test_every_method_is_a_value_of_the_parameter() -> None:
    assert set(QUANTIZATIONS) == {"none", *quantization._METHODS}
