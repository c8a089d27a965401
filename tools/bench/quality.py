"""How good the pictures of a run are: against those of plain float32, and against what their prompts say."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from tools.bench.load import Load
from tools.bench.traffic import Wanted
from tools.tiny_flux.prompts import all_combinations, caption
from tools.tiny_flux.recognise import Recogniser

_Key = tuple[str, int]
"""Prompt and seed."""

SAME_DB = 99.0
"""Stands for pictures without any difference."""


@dataclass(frozen=True, slots=True)
class Quality:
    pictures: Mapping[_Key, npt.NDArray[np.uint8]]
    background_right: float
    subject_right: float
    psnr_db: float | None
    """Mean over the pictures of the signal-to-noise ratio to the same pictures of plain float32; None for itself."""

    def cells(self) -> list[str]:
        psnr = "" if self.psnr_db is None else f"{self.psnr_db:.1f}"
        return [psnr, f"{self.background_right:.1%}", f"{self.subject_right:.1%}"]

    def figures(self) -> dict[str, object]:
        return {
            "psnr_db": self.psnr_db,
            "background_right": self.background_right,
            "subject_right": self.subject_right,
            "judged": len(self.pictures),
        }


def judge(load: Load, plain: Quality | None) -> Quality:
    """Of the pictures of a load of captions of flux-tiny. `plain` is that of the same load in plain float32."""
    scenes = {caption(scene): scene for scene in all_combinations()}
    recogniser = Recogniser()
    pictures: dict[_Key, npt.NDArray[np.uint8]] = {}
    backgrounds, subjects = [], []
    for answer in load.answers:
        image = Image.open(io.BytesIO(answer.file)).convert("RGB")
        seen, scene = recogniser(image), scenes[answer.wanted.prompt]
        backgrounds.append(seen.background == scene.background)
        subjects.append(seen.subject == scene.subject)
        pictures[_key(answer.wanted)] = np.asarray(image)
    ratios = None if plain is None else [_psnr_db(picture, plain.pictures[key]) for key, picture in pictures.items()]
    return Quality(
        pictures,
        statistics.fmean(backgrounds),
        statistics.fmean(subjects),
        None if ratios is None else statistics.fmean(ratios),
    )


def _key(wanted: Wanted) -> _Key:
    return wanted.prompt, wanted.seed


def _psnr_db(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    error = float(np.square(one.astype(float) - other).mean())
    return SAME_DB if error == 0 else min(SAME_DB, 10 * math.log10(255**2 / error))
