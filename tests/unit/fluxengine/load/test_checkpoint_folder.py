"""What people give as `model`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from fluxengine.config import EngineConfig
from fluxengine.errors import ConfigError
from fluxengine.load.checkpoint_folder import INDEX_FILE, find_checkpoint


@pytest.fixture
def folder(tmp_path: Path, guided_checkpoint: Path) -> Path:
    return Path(shutil.copytree(guided_checkpoint, tmp_path / "flux"))


def refusal(model: Path | str, **parameters: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        find_checkpoint(EngineConfig(model=str(model), **parameters), Path())
    assert len(str(caught.value)) <= 500
    return str(caught.value)


def test_a_folder_beside_the_model_goes_first(folder: Path) -> None:
    assert find_checkpoint(EngineConfig(model="flux"), folder.parent) == folder
    assert find_checkpoint(EngineConfig(model=str(folder)), Path()) == folder


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("flux1-dev.safetensors", "FluxPipeline.from_single_file(FILE).save_pretrained(FOLDER)"),
        ("flux1-dev-Q4_0.gguf", "set quantization to gguf:flux1-dev-Q4_0.gguf"),
    ],
)
def test_a_single_file(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_bytes(b"weights")
    said = refusal(tmp_path / name)
    assert said.startswith("is a file; must be a folder in diffusers' format (model_index.json beside transformer, ")
    assert advice in said


def test_folders_that_are_none(folder: Path) -> None:
    index = json.loads((folder / INDEX_FILE).read_text())
    for part, words in (
        (index | {"_class_name": "StableDiffusionPipeline"}, "a StableDiffusionPipeline; supported is FluxPipeline"),
        ([], "a None; supported is FluxPipeline"),
        (
            index | {"vae": ["diffusers", "AutoencoderTiny"]},
            "'vae' is ['diffusers', 'AutoencoderTiny']; must be a",
        ),
        (index | {"text_encoder_2": [None, None]}, "'text_encoder_2' is [None, None]; must be a T5EncoderModel"),
        ({key: index[key] for key in index if key != "tokenizer"}, "'tokenizer' is None; must be a CLIPTokenizer"),
    ):
        (folder / INDEX_FILE).write_text(json.dumps(part))
        assert words in refusal(folder)
    (folder / INDEX_FILE).write_text("{")
    assert f"{INDEX_FILE} is not JSON" in refusal(folder)
    (folder / INDEX_FILE).unlink()
    assert refusal(folder).startswith(f"is a folder without {INDEX_FILE}; must be a folder in diffusers' format")


def test_a_variant_that_no_part_has(folder: Path) -> None:
    assert refusal(folder, variant="fp16") == "has no weights of the variant 'fp16'; has none but plain"
    file = folder / "vae/diffusion_pytorch_model.safetensors"
    shutil.copy(file, file.with_suffix(".ema.safetensors"))
    assert refusal(folder, variant="fp16") == "has no weights of the variant 'fp16'; has ema"
    assert find_checkpoint(EngineConfig(model=str(folder), variant="ema"), Path()) == folder


# diffusers still passes it to the hub's client
@pytest.mark.filterwarnings("ignore:.*local_dir_use_symlinks:UserWarning")
def test_a_hub_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    config = EngineConfig(model="someone/flux")
    assert refusal(config.model).startswith("neither a folder in diffusers' format (")
    cached = tmp_path / "hub/models--someone--flux"
    snapshot = Path(shutil.copytree(folder, cached / "snapshots" / ("a" * 40)))
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("a" * 40)
    assert find_checkpoint(config, tmp_path) == snapshot
    assert find_checkpoint(replace(config, revision="a" * 40), tmp_path) == snapshot
    assert "nor a hub name within reach" in refusal(config.model, revision="b" * 40)
