"""Measure the LoRAs on combinations that training did not see: `python -m tools.tiny_flux.evaluate_loras`.

The measure of "the right picture": the picture is compared, at 32×32 and by correlation, with the true picture of its
own scene in that style, and with those of all other subjects in all sizes on the same background. The subject is right
if the nearest is one of its own name; colours of shapes are left out, as neither style shows them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from numpy.typing import NDArray
from PIL import Image

from .evaluate import chosen
from .export import MODEL
from .lora import LORAS
from .pictures import FONT, PICTURE_SIZE
from .prompts import Scene, all_combinations, caption
from .styles import STYLES
from .vae import OUT

SHEET = Path("docs/loras.png")
SHEET_SEED = 11
_BATCH = 10
_AT_SCALE_0 = 20  # pictures are drawn with each LoRA at scale 0, to see that they are the plain ones
_GRID = 32  # pictures are compared at this size
_SHOWN = ("frog", "strawberry", "house", "butterfly", "car", "penguin", "pumpkin", "turtle")  # on the sheet

Picture = Image.Image
Scales = Mapping[str, float]


def load(model: Path, folder: Path) -> FluxPipeline:
    """The shipped pipeline in float32 with all LoRAs loaded, each under the name of its file; none is set yet."""
    pipe = FluxPipeline.from_pretrained(model, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    for style in STYLES:
        pipe.load_lora_weights(folder, weight_name=f"{style}.safetensors", adapter_name=style)
    return pipe


def draw_all(
    pipe: FluxPipeline, model: Path, scenes: list[tuple[Scene, int]], steps: int, scales: Scales | None
) -> list[Picture]:
    """The pictures of plain captions with LoRAs at these scales; None: with all LoRAs switched off."""
    serving = json.loads((model / "serving.json").read_text())
    if scales is None:
        pipe.disable_lora()
    else:
        pipe.enable_lora()
        pipe.set_adapters(list(scales), list(scales.values()))
    pictures: list[Picture] = []
    for first in range(0, len(scenes), _BATCH):
        batch = scenes[first : first + _BATCH]
        pictures += pipe(
            [caption(scene) for scene, _ in batch],
            height=PICTURE_SIZE,
            width=PICTURE_SIZE,
            num_inference_steps=steps,
            guidance_scale=serving["default_guidance"],
            max_sequence_length=serving["max_sequence_length"],
            generator=[torch.Generator("cpu").manual_seed(seed) for _, seed in batch],
        ).images
    return pictures


def chroma(picture: Picture) -> float:
    """How colourful a picture is: the largest less the smallest of red, green and blue, mean of all pixels, of 255."""
    levels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    return float((levels.max(axis=2) - levels.min(axis=2)).mean())


@dataclass(frozen=True, slots=True)
class _References:
    """The true pictures of a style on one background."""

    vectors: NDArray[np.float32]  # [N, 32·32], each of mean 0 and length 1
    scenes: list[Scene]


class Judge:
    """Compares pictures with the true ones of a style. Raises FontMissing."""

    def __init__(self, style: Callable[[Scene, Path], Picture], font: Path) -> None:
        self._style = style
        self._font = font
        self._references = lru_cache(maxsize=None)(self._build)

    def __call__(self, scenes: list[Scene], pictures: list[Picture]) -> dict[str, Any]:
        """Mean correlation with the own true picture and with those of other things; share of right subjects."""
        own, others, right, decibels = [], [], [], []
        for scene, picture in zip(scenes, pictures, strict=True):
            references = self._references(scene.background)
            correlations = references.vectors @ _vector(picture)
            same = np.array([reference.thing == scene.thing for reference in references.scenes])
            own.append(correlations[references.scenes.index(scene)])
            others.append(correlations[~same].mean())
            right.append(same[correlations.argmax()])
            decibels.append(_decibel(picture, self._style(scene, self._font)))
        return {
            "correlation_own": round(float(np.mean(own)), 4),
            "correlation_others": round(float(np.mean(others)), 4),
            "subject_right": round(float(np.mean(right)), 4),
            "psnr_db": round(float(np.mean(decibels)), 2),
        }

    def _build(self, background: str) -> _References:
        scenes = [scene for scene in all_combinations() if scene.background == background]
        return _References(np.stack([_vector(self._style(scene, self._font)) for scene in scenes]), scenes)


def _vector(picture: Picture) -> NDArray[np.float32]:
    """The picture's luma at 32×32, less its mean, of length 1."""
    small = np.asarray(picture.convert("L").resize((_GRID, _GRID), Image.Resampling.BOX), dtype=np.float32).ravel()
    centred = small - small.mean()
    unit: NDArray[np.float32] = centred / max(1e-6, float(np.linalg.norm(centred)))
    return unit


def _decibel(picture: Picture, truth: Picture) -> float:
    difference = np.asarray(picture.convert("RGB"), dtype=np.float32) - np.asarray(truth, dtype=np.float32)
    return float(10 * np.log10(255**2 / max(1e-6, np.square(difference).mean())))


def measure(pipe: FluxPipeline, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of every LoRA, and of the plain pictures by the same measures."""
    scenes = chosen(options.count, options.seed)

    def drawn(scales: Scales | None, count: int = options.count) -> list[Picture]:
        return draw_all(pipe, options.model, scenes[:count], options.steps, scales)

    plain = drawn(None)
    result: dict[str, Any] = {"count": len(scenes), "steps": options.steps, "seed": options.seed}
    result["chroma_plain"] = round(float(np.mean([chroma(picture) for picture in plain])), 2)
    for name, style in STYLES.items():
        judge = Judge(style, options.font)
        asked = [scene for scene, _ in scenes]
        pictures = drawn({name: 1.0})
        result[name] = {
            "chroma": round(float(np.mean([chroma(picture) for picture in pictures])), 2),
            "chroma_truth": round(float(np.mean([chroma(style(scene, options.font)) for scene in asked])), 2),
            "lora": judge(asked, pictures),
            "plain": judge(asked, plain),
            "scale_0_equals_plain": drawn({name: 0.0}, _AT_SCALE_0) == plain[:_AT_SCALE_0],
        }
    return result


def contact_sheet(pipe: FluxPipeline, model: Path, steps: int) -> Picture:
    """Rows: plain, each LoRA alone, all at half their strength. Columns: some held-out prompts."""
    held_out = {scene.thing: scene for scene in reversed(list(all_combinations())) if scene.held_out and _large(scene)}
    scenes = [(held_out[thing], SHEET_SEED) for thing in _SHOWN]
    rows: list[Scales | None] = [None, *({name: 1.0} for name in STYLES), dict.fromkeys(STYLES, 0.5)]
    sheet = Image.new("RGB", (len(scenes) * PICTURE_SIZE, len(rows) * PICTURE_SIZE))
    for row, scales in enumerate(rows):
        for column, picture in enumerate(draw_all(pipe, model, scenes, steps, scales)):
            sheet.paste(picture, (column * PICTURE_SIZE, row * PICTURE_SIZE))
    return sheet


def _large(scene: Scene) -> bool:
    return scene.size != "small" and scene.background != "white"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--folder", type=Path, default=LORAS)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--font", type=Path, default=FONT)
    parser.add_argument("--out", type=Path, default=OUT / "loras.json")
    parser.add_argument("--sheet", type=Path, default=SHEET)
    options = parser.parse_args()
    pipe = load(options.model, options.folder)
    contact_sheet(pipe, options.model, options.steps).quantize(128, dither=Image.Dither.NONE).save(
        options.sheet, optimize=True
    )
    result = measure(pipe, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
