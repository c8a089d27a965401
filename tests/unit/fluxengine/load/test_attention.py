from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel

from fluxengine.errors import ConfigError
from fluxengine.load.attention import set_attention_backend, usable_attention_backends

CPU = torch.device("cpu")


@pytest.fixture
def transformer(guided_checkpoint: Path) -> FluxTransformer2DModel:
    return FluxTransformer2DModel.from_pretrained(guided_checkpoint, subfolder="transformer", dtype=torch.float32)


def backends(transformer: FluxTransformer2DModel) -> set[object]:
    return {block.attn.processor._attention_backend for block in transformer.transformer_blocks}


@pytest.mark.parametrize("name", ["native", "_native_math"])
def test_one_that_works(transformer: FluxTransformer2DModel, name: str) -> None:
    set_attention_backend(transformer, name, CPU)
    assert backends(transformer) == {name}


def test_one_that_nobody_knows(transformer: FluxTransformer2DModel) -> None:
    with pytest.raises(
        ConfigError, match=r"attention_backend is 'magic': must be auto or one that works on cpu: .*native"
    ):
        set_attention_backend(transformer, "magic", CPU)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("sage", "missing package"), ("_native_cudnn", "No viable backend"), ("flash_hub", "`kernels` package")],
)
def test_one_that_is_known_but_does_not_work_here(transformer: FluxTransformer2DModel, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"attention_backend is {name!r}: does not work here: .*{reason}.*native"):
        set_attention_backend(transformer, name, CPU)


def test_what_works_here() -> None:
    usable = usable_attention_backends(CPU, torch.float32)
    assert {"native", "_native_math"} <= set(usable)
    assert "_native_cudnn" not in usable
