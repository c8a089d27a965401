from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload_with_hook
from accelerate.hooks import UserCpuOffloadHook
from diffusers import FluxPipeline

from fluxengine.errors import ConfigError
from fluxengine.load.placement import encode_between_steps, place

CPU = torch.device("cpu")


@pytest.fixture
def pipeline(guided_checkpoint: Path) -> Any:
    return FluxPipeline.from_pretrained(guided_checkpoint, dtype=torch.float32)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_there_is_nothing_to_offload_from_a_cpu(pipeline: Any, offload: str) -> None:
    with pytest.raises(ConfigError, match=f"offload is {offload!r}: needs a GPU; on cpu it must be none"):
        place(pipeline, CPU, offload, vae_slicing=False, vae_tiling=False)


@torch.inference_mode()
def test_the_vae_decodes_one_picture_after_the_other(pipeline: Any) -> None:
    maps = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    place(pipeline, CPU, "none", vae_slicing=False, vae_tiling=False)
    assert not (pipeline.vae.use_slicing or pipeline.vae.use_tiling)
    whole = pipeline.vae.decode(maps, return_dict=False)[0]
    place(pipeline, CPU, "none", vae_slicing=True, vae_tiling=False)
    assert pipeline.vae.use_slicing
    torch.testing.assert_close(pipeline.vae.decode(maps, return_dict=False)[0], whole, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_vae_decodes_in_tiles(pipeline: Any) -> None:
    maps = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    whole = pipeline.vae.decode(maps, return_dict=False)[0]
    place(pipeline, CPU, "none", vae_slicing=False, vae_tiling=True)
    assert pipeline.vae.use_tiling
    tiled = pipeline.vae.decode(maps, return_dict=False)[0]
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole), "each tile is normalised by itself"


def test_the_transformer_leaves_for_the_text_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    order = ("text_encoder", "text_encoder_2", "transformer", "vae")
    networks = {name: torch.nn.Linear(2, 2) for name in order}
    hooks: list[Any] = []
    for network in networks.values():
        hooks.append(cpu_offload_with_hook(network, "cpu", hooks[-1] if hooks else None)[1])
    networks["transformer"].to("meta")  # so that it is elsewhere
    left: list[Any] = []
    monkeypatch.setattr(UserCpuOffloadHook, "offload", lambda hook: left.append(hook.model))
    networks["text_encoder"](torch.zeros(1, 2))
    assert left == [], "as in a pipeline"
    encode_between_steps(SimpleNamespace(**networks, _all_hooks=hooks))
    networks["text_encoder"](torch.zeros(1, 2))
    assert left == [networks["transformer"]]
