"""Write what was trained as a diffusers folder: `python -m tools.tiny_flux.export`. Weights are stored as float16."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import nn

from . import checkpoint
from .latents import LATENTS, trained_vae
from .network import Network, Tokenizers
from .tokens import T5_LENGTH, lower_case_ids
from .transformer import CHECKPOINT

MODEL = Path("model_repository/flux/1/flux-tiny")
SERVING = {
    "default_size": "128x128",
    "default_steps": 8,
    "default_guidance": 3.5,
    "max_size": "512x512",
    "max_sequence_length": T5_LENGTH,
}
"""What a server takes from the checkpoint, as it cannot know it from the diffusers files."""


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX.1-dev's scheduler, with its dynamic shift."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def pipeline(path: Path) -> FluxPipeline:
    """The pipeline with the averaged weights of a checkpoint, float32."""
    tokenizers = Tokenizers()
    network = Network(tokenizers)
    network.load_state_dict(checkpoint.load(path)["ema"], strict=False)  # the rest are buffers and tied names
    with torch.no_grad():
        words = network.text_encoder_2.get_input_embeddings().weight
        words.copy_(words[lower_case_ids(tokenizers.t5)])
    return FluxPipeline(
        scheduler=scheduler(),
        vae=_configured_vae(),
        text_encoder=network.text_encoder.eval(),
        tokenizer=tokenizers.clip,
        text_encoder_2=network.text_encoder_2.eval(),
        tokenizer_2=tokenizers.t5,
        transformer=network.transformer.eval(),
    )


def _configured_vae() -> AutoencoderKL:
    """The autoencoder, its config holding the shift and scale measured on the data."""
    measured = checkpoint.load(LATENTS)
    vae = trained_vae()
    vae.register_to_config(shift_factor=measured["shift"], scaling_factor=measured["scale"])
    return vae


def export(path: Path, folder: Path) -> None:
    """Write the folder; the model card and the license in it stay as they are."""
    made = pipeline(path)
    networks: dict[str, nn.Module] = {
        name: part for name, part in made.components.items() if isinstance(part, nn.Module)
    }
    for part in networks.values():
        part.to(torch.float16)
    part_folder = folder.with_name(folder.name + ".part")
    shutil.rmtree(part_folder, ignore_errors=True)
    made.save_pretrained(part_folder, safe_serialization=True)
    for name in networks:
        _declare_float32(part_folder / name / "config.json")
    index = part_folder / "model_index.json"
    index.write_text(index.read_text().replace('"T5Tokenizer"', '"T5TokenizerFast"'))  # its name in transformers 4 too
    (part_folder / "serving.json").write_text(json.dumps(SERVING, indent=2) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    for item in part_folder.iterdir():
        old = folder / item.name
        if old.is_dir():
            shutil.rmtree(old)
        item.replace(old)
    part_folder.rmdir()
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)  # safetensors makes files that only their owner may read
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size / 2**20:.1f} MB")


def _declare_float32(config: Path) -> None:
    """Make float32 the precision that transformers picks when none is asked for, as diffusers does."""
    content = json.loads(config.read_text())
    for key in ("dtype", "torch_dtype"):
        if key in content:
            content[key] = "float32"
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--model", type=Path, default=MODEL)
    options = parser.parse_args()
    export(options.checkpoint, options.model)


if __name__ == "__main__":
    main()
