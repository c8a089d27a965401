"""What comes back over Triton's protocols, taken apart."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
"""[H, W, 3]"""


@dataclass(frozen=True)
class Event:
    """One response. Arrays are [rows, …]; None where the response has no such output."""

    arrived_s: float
    image: npt.NDArray[np.object_] | None = None
    pixels: npt.NDArray[np.uint8] | None = None
    seed: npt.NDArray[np.int64] | None = None
    info: npt.NDArray[np.object_] | None = None
    event: npt.NDArray[np.object_] | None = None
    step: npt.NDArray[np.int32] | None = None
    total_steps: npt.NDArray[np.int32] | None = None

    @property
    def kind(self) -> str:
        return "" if self.event is None else str(self.event[0, 0].decode())

    @property
    def steps(self) -> list[int]:
        """How far each row is."""
        assert self.step is not None
        return [int(step) for step in self.step[:, 0]]

    @property
    def totals(self) -> list[int]:
        """How many steps each row takes."""
        assert self.total_steps is not None
        return [int(total) for total in self.total_steps[:, 0]]


@dataclass
class Answer:
    """All that came back for one request: events, the last of them with the pictures, or an error."""

    request_id: str
    events: list[Event] = field(default_factory=list)
    error: str | None = None
    status: str | None = None
    ended: bool = False

    @property
    def final(self) -> Event:
        assert self.error is None, self.error
        return self.events[-1]

    @property
    def infos(self) -> list[dict[str, Any]]:
        """Of each row."""
        assert self.final.info is not None
        return [json.loads(text) for text in self.final.info[:, 0]]

    @property
    def seeds(self) -> list[list[int]]:
        """Of each image of each row."""
        assert self.final.seed is not None
        return [[int(seed) for seed in row] for row in self.final.seed]

    def files(self, base64_text: bool = True) -> list[list[bytes]]:
        """The encoded images of each row."""
        assert self.final.image is not None
        if base64_text:
            return [[base64.b64decode(text, validate=True) for text in row] for row in self.final.image]
        return [list(row) for row in self.final.image]

    def pictures(self, base64_text: bool = True) -> list[list[Pixels]]:
        """The images of each row, from `pixels` or from their files."""
        if self.final.pixels is not None:
            return [list(row) for row in self.final.pixels]
        return [[decode(file) for file in row] for row in self.files(base64_text)]


def decode(file: bytes) -> Pixels:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


def event(result: Any) -> Event:
    names = ("image", "pixels", "seed", "info", "event", "step", "total_steps")
    return Event(arrived_s=time.monotonic(), **{name: result.as_numpy(name) for name in names})


def json_pictures(answer: Mapping[str, Any]) -> list[Pixels]:
    """The pictures in an answer of `generate`, which gives a single value bare and several as a list."""
    images = answer["image"] if isinstance(answer["image"], list) else [answer["image"]]
    return [decode(base64.b64decode(text, validate=True)) for text in images]
