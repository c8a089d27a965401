"""What comes back: progress, previews, results."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from fluxclient.errors import FluxError, ServerError
from fluxclient.inputs.request import Array, Request

Outputs = Mapping[str, Array]
"""One response, by output name; each array begins with a dimension for the prompts of the request."""

SHOWN_CHARACTERS = 200
"""How much is told of why an answer cannot be read."""

_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}


@dataclass(frozen=True)
class Info:
    """How the server made a picture, and how long each part took."""

    model: str
    width: int
    height: int
    steps: int
    guidance_scale: float | None
    """None for a model that has none (timestep-distilled)."""
    max_sequence_length: int
    lora: str
    queue_ms: float
    encode_ms: float
    denoise_ms: float
    decode_ms: float
    total_ms: float
    mean_batch: float
    """How many pictures shared a denoising step, on average over this picture's steps."""
    truncated: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The end of the `prompt` or `negative_prompt` that had no room, by text encoder; empty where all of them had."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else the server says: `true_cfg_scale` and `strength` where they counted, and what a newer one knows."""

    @classmethod
    def from_json(cls, text: bytes) -> Info:
        """Raises ValueError or TypeError for a text that is no such object or lacks a key."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"info is no JSON object but {type(values).__name__}")
        known = {item.name for item in fields(cls)} - {"extra"}
        return cls(
            **{name: value for name, value in values.items() if name in known},
            extra={name: value for name, value in values.items() if name not in known},
        )

    def to_json(self) -> str:
        values = asdict(self)
        if not self.truncated:
            del values["truncated"]  # as the server leaves it out
        return json.dumps({**values.pop("extra"), **values})


@dataclass(frozen=True, eq=False)
class Result:
    """The finished pictures of one prompt."""

    prompt: str
    images: tuple[Image.Image, ...]
    """One for each image of the prompt. Files are decoded when their pixels are first used."""
    seeds: tuple[int, ...]
    """The seed of each image: sending it again with the same options gives the same picture."""
    info: Info
    request_id: str
    files: tuple[bytes, ...] = field(default=(), repr=False)
    """The files as they came; empty with `output_format="raw"`."""

    @property
    def image(self) -> Image.Image:
        """The first picture."""
        return self.images[0]

    def save(self, path: str | Path) -> list[Path]:
        """Writes the pictures and returns where to: `path`, or `name-0.png`, `name-1.png` … if there are several.

        The format goes by the suffix; without one it stays what the server sent. PNG files get texts beside the pixels
        that say how they were made (prompt, seed, steps …), which `from_file` reads. A JPEG or WebP file is written as
        it came, anything else is converted. Raises ValueError for an unknown suffix and OSError as files do.
        """
        target = Path(path)
        written = []
        for index, image in enumerate(self.images):
            suffix = target.suffix or _SUFFIXES.get(image.format or "PNG", ".png")
            name = target.stem if len(self.images) == 1 else f"{target.stem}-{index}"
            place = target.with_name(name + suffix)
            wanted = Image.registered_extensions().get(suffix.lower())
            if wanted == "PNG":
                image.save(place, "PNG", pnginfo=self._texts(index))
            elif self.files and wanted == image.format:
                place.write_bytes(self.files[index])
            else:
                image.save(place)
            written.append(place)
        return written

    @classmethod
    def from_file(cls, path: str | Path) -> Result:
        """The picture of a PNG file that `save` has written, with what was said of it then.

        Raises ValueError for a file that says nothing of it, and OSError for one that is no picture.
        """
        file = Path(path).read_bytes()
        image = _open(file)
        texts = getattr(image, "text", {})
        try:
            return cls(
                prompt=texts["prompt"],
                images=(image,),
                seeds=(int(texts["seed"]),),
                info=Info.from_json(texts["info"].encode()),
                request_id=texts["request_id"],
                files=(file,),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a PNG file that fluxclient has saved ({error!r})") from error

    def _texts(self, index: int) -> PngImagePlugin.PngInfo:
        """What other programs show one by one, and `info` with all that the server said."""
        texts = PngImagePlugin.PngInfo()
        info = self.info
        for key, value in {
            "prompt": self.prompt,
            "seed": self.seeds[index],
            "num_inference_steps": info.steps,
            "guidance_scale": info.guidance_scale,
            "size": f"{info.width}x{info.height}",
            "model": info.model,
            "request_id": self.request_id,
            "info": info.to_json(),
        }.items():
            if value is not None:
                texts.add_itxt(key, str(value))
        return texts


@dataclass(frozen=True, eq=False)
class Progress:
    """A denoising step is done; or nothing new, the same step again as a sign of life, 0 before the first."""

    step: int
    total_steps: int


@dataclass(frozen=True, eq=False)
class Preview(Progress):
    """A denoising step is done, and this is about what the pictures will be: small, one for each image.

    None stands for an image that this step brings no preview of: those of one prompt need not keep pace.
    """

    images: tuple[Image.Image | None, ...]


Event = Progress | Preview | Result
"""What `stream` gives: any number of Progress and Preview (which is a Progress), then one Result."""


def read_answer(outputs: Outputs, request: Request) -> Progress | list[Result]:
    """One response: progress or a preview of a request with one prompt, or the N results of the final answer.

    Raises ServerError if it is not what the model promises.
    """
    with readable(request):
        kind = bytes(outputs["event"][0, 0]).decode()
        if kind == "final":
            return [_result(outputs, request, row) for row in range(len(request.prompts))]
        step, total = int(outputs["step"][0, 0]), int(outputs["total_steps"][0, 0])
        if kind == "preview":
            return Preview(step, total, tuple(_open(file) if file else None for file in outputs["image"][0]))
        if kind == "progress":
            return Progress(step, total)
    raise ServerError(f"the answer is an unknown event {kind!r}", field="answer", request_id=request.id)


@contextmanager
def readable(request: Request) -> Iterator[None]:
    """Whatever the reading of an answer fails with, and libraries with all kinds of things, is a ServerError."""
    try:
        yield
    except FluxError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:SHOWN_CHARACTERS]
        problem = f"the answer cannot be read: {type(error).__name__}: {said}"
        raise ServerError(problem, field="answer", request_id=request.id) from error


def _result(outputs: Outputs, request: Request, row: int) -> Result:
    images, files = _pictures(outputs, row)
    return Result(
        prompt=request.prompts[row],
        images=images,
        seeds=tuple(int(seed) for seed in outputs["seed"][row]),
        info=Info.from_json(bytes(outputs["info"][row, 0])),
        request_id=request.id,
        files=files,
    )


def _pictures(outputs: Outputs, row: int) -> tuple[tuple[Image.Image, ...], tuple[bytes, ...]]:
    """Pictures and files of a row, from `image` [N, k] (files) or `pixels` [N, k, H, W, 3]."""
    if "image" not in outputs:
        return tuple(Image.fromarray(pixels) for pixels in outputs["pixels"][row]), ()
    files = tuple(bytes(file) for file in outputs["image"][row])
    return tuple(map(_open, files)), files


def _open(file: bytes) -> Image.Image:
    """Reads the head of the file only; Pillow decodes the rest when the pixels are used."""
    return Image.open(io.BytesIO(file))
