"""Measure flux-tiny on combinations that training did not see: `python -m tools.tiny_flux.evaluate`."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from PIL import Image

from .export import MODEL
from .pictures import PICTURE_SIZE
from .prompts import Scene, caption, held_out_combinations, varied_caption
from .recognise import Recogniser
from .vae import OUT

BACKGROUND_BOUND = 0.98
SUBJECT_BOUND = 0.90
_BATCH = 10
_SHEET_COLUMNS = 20


def chosen(count: int, seed: int) -> list[tuple[Scene, int]]:
    """`count` held-out scenes, each with the seed of its picture. No scene twice before all were used once."""
    rng = random.Random(seed)
    held_out = held_out_combinations()
    scenes: list[Scene] = []
    while len(scenes) < count:
        scenes += rng.sample(held_out, len(held_out))
    return [(scene, rng.getrandbits(31)) for scene in scenes[:count]]


def draw_all(folder: Path, scenes: list[tuple[Scene, int]], steps: int, varied: bool) -> list[Image.Image]:
    """The pictures that plain FluxPipeline gives in float32, for plain or varied captions."""
    serving = json.loads((folder / "serving.json").read_text())
    pipe = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    for first in range(0, len(scenes), _BATCH):
        batch = scenes[first : first + _BATCH]
        pictures += pipe(
            [varied_caption(scene, random.Random(seed)) if varied else caption(scene) for scene, seed in batch],
            height=PICTURE_SIZE,
            width=PICTURE_SIZE,
            num_inference_steps=steps,
            guidance_scale=serving["default_guidance"],
            max_sequence_length=serving["max_sequence_length"],
            generator=[torch.Generator("cpu").manual_seed(seed) for _, seed in batch],
        ).images
    return pictures


def judge(scenes: list[tuple[Scene, int]], pictures: list[Image.Image]) -> dict[str, Any]:
    """Shares of right answers, and every wrong one."""
    recogniser = Recogniser()
    seen = [recogniser(picture) for picture in pictures]
    pairs = [(scene, found) for (scene, _), found in zip(scenes, seen, strict=True)]
    things = [(scene, found) for scene, found in pairs if scene.colour is None]
    wrong = [(scene, found) for scene, found in pairs if scene.subject != found.subject]

    def share(hits: list[bool]) -> float:
        return sum(hits) / max(1, len(hits))

    return {
        "count": len(pairs),
        "background_right": share([scene.background == found.background for scene, found in pairs]),
        "subject_right": share([scene.subject == found.subject for scene, found in pairs]),
        "things": len(things),
        "things_right": share([scene.subject == found.subject for scene, found in things]),
        "size_right": share([scene.size == found.size for scene, found in pairs]),
        "mean_distance": sum(found.distance for found in seen) / max(1, len(seen)),
        "wrong": [f"{caption(scene)}: {found.size} {found.subject} on {found.background}" for scene, found in wrong],
    }


def contact_sheet(pictures: list[Image.Image]) -> Image.Image:
    """All pictures on one."""
    rows = -(-len(pictures) // _SHEET_COLUMNS)
    sheet = Image.new("RGB", (_SHEET_COLUMNS * PICTURE_SIZE, rows * PICTURE_SIZE))
    for index, picture in enumerate(pictures):
        sheet.paste(picture, (index % _SHEET_COLUMNS * PICTURE_SIZE, index // _SHEET_COLUMNS * PICTURE_SIZE))
    return sheet


def main() -> None:
    """Command line. Exit code 1 below the bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--varied", action="store_true", help="captions as users may phrase them, some without a size")
    parser.add_argument("--out", type=Path, default=OUT / "evaluation.json")
    options = parser.parse_args()
    scenes = chosen(options.count, options.seed)
    pictures = draw_all(options.model, scenes, options.steps, options.varied)
    asked = {"model": str(options.model), "steps": options.steps, "seed": options.seed, "varied": options.varied}
    result = {**asked, **judge(scenes, pictures)}
    result["passed"] = result["background_right"] >= BACKGROUND_BOUND and result["subject_right"] >= SUBJECT_BOUND
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    contact_sheet(pictures[:200]).save(options.out.with_suffix(".png"))
    print(json.dumps(result, indent=2))
    if not result["passed"]:
        sys.exit(f"below the bounds: background {BACKGROUND_BOUND:.0%}, named thing {SUBJECT_BOUND:.0%}")


if __name__ == "__main__":
    main()
