from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline

from fluxengine.errors import ConfigError
from fluxengine.placement import place

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
