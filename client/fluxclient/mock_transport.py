"""A stand-in for the server, for tests of programs that draw: no connection is made, and nothing is drawn."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fluxclient.errors import Cancelled, FluxError, InvalidArgument
from fluxclient.inputs.options import BY_NAME
from fluxclient.inputs.request import Request
from fluxclient.result import Info, Outputs, Preview, Progress
from fluxclient.transport.interface import ModelConfig

FORMATS = ("png", "jpeg", "webp", "raw")
Pictures = Image.Image | Sequence[Image.Image]


@dataclass(frozen=True)
class MockRequest:
    """One prompt of a request, as a server would see it."""

    prompt: str
    options: Mapping[str, Any]
    """By the names of `generate`: numbers, texts, the file of `image`. A timeout has become `deadline_ms`."""
    model: str
    id: str
    """Of the request; an attempt is one of its own."""


Handler = Callable[[MockRequest], Pictures | Iterator[Progress | Pictures]]
"""What stands for the model. It gives the picture of a prompt, or one for each image; a generator gives Progress
and Preview first. It raises FluxError in place of the server; what else it raises reaches the caller as it is."""


class MockTransport:
    """For `FluxClient(transport=…)` and `AsyncFluxClient(transport=…)`.

    Requests take the way that they take to a server: options are checked, what may be tried again is, pictures come as
    files. The handler is called for each prompt where the client waits for its answer, so it should not take long.
    Image i has the seed that was asked for plus i, or i. The server is ready, has done nothing, and loads anything.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def open(self, model: str, request: Request) -> _MockCall:
        return _MockCall(self._handler, model, request)

    async def server_live(self, timeout_s: float) -> bool:
        return True

    async def server_ready(self, timeout_s: float) -> bool:
        return True

    async def model_ready(self, model: str, timeout_s: float) -> bool:
        return True

    async def server_version(self, timeout_s: float) -> str:
        return "mock"

    async def model_config(self, model: str, timeout_s: float) -> ModelConfig:
        return {"name": model, "instance_group": [{"count": 1}]}

    async def metrics(self, url: str, timeout_s: float) -> str:
        return ""

    async def load(self, model: str, config: ModelConfig | None, timeout_s: float | None, key: str | None) -> None:
        return None

    async def unload(self, model: str, timeout_s: float | None, key: str | None) -> None:
        return None

    async def close(self) -> None:
        return None


class _MockCall:
    def __init__(self, handler: Handler, model: str, request: Request) -> None:
        self._handler = handler
        self._model = model
        self._request = request
        self._cancelled = False

    async def __aiter__(self) -> AsyncGenerator[Outputs, None]:
        rows: list[Outputs] = []
        for row in range(len(self._request.prompts)):
            asked = self._asked(row)
            steps = int(asked.options.get("num_inference_steps", 1))
            for item in self._given(asked):
                if self._cancelled:
                    raise Cancelled("was cancelled", field="client", request_id=self._request.id)
                if isinstance(item, Progress):
                    steps = item.total_steps
                    yield _progress(item)
                else:
                    rows.append(_final(item, asked, steps))
        if len(rows) != len(self._request.prompts):
            raise TypeError("the handler of a MockTransport must give the pictures of a prompt once, at its end")
        yield {name: np.concatenate([outputs[name] for outputs in rows]) for name in rows[0]}

    def cancel(self) -> None:
        self._cancelled = True

    def _given(self, asked: MockRequest) -> Iterator[Progress | Pictures]:
        """What the handler gives, or the error that it raises, with the request's id as if the server said it."""
        try:
            given = self._handler(asked)
            yield from given if isinstance(given, Iterator) else iter([given])
        except FluxError as error:
            its_id = error.request_id or self._request.id
            raise type(error)(error.text, field=error.field, code=error.code, request_id=its_id) from error

    def _asked(self, row: int) -> MockRequest:
        options: dict[str, Any] = {}
        for name, values in self._request.inputs.items():
            if BY_NAME[name].is_option:
                value = values[row].item()
                options[name] = value.decode() if isinstance(value, bytes) and name != "image" else value
                self._check(name, options[name])
        return MockRequest(self._request.prompts[row], options, self._model, self._request.id)

    def _check(self, name: str, value: Any) -> None:
        """Raises InvalidArgument for what no server takes."""
        described = BY_NAME[name]
        allowed = f"a number from {described.least:g} to {described.most:g}"
        wrong = not isinstance(value, str | bytes) and not described.least <= value <= described.most
        if name == "output_format":
            allowed, wrong = f"one of {', '.join(FORMATS)}", value not in FORMATS
        if wrong:
            raise InvalidArgument(f"is {value!r}; must be {allowed}", field=name, request_id=self._request.id)


def _progress(item: Progress) -> Outputs:
    outputs = {
        "event": np.array([[b"preview" if isinstance(item, Preview) else b"progress"]], np.object_),
        "step": np.array([[item.step]], np.int32),
        "total_steps": np.array([[item.total_steps]], np.int32),
    }
    if isinstance(item, Preview):
        files = [b"" if image is None else _file(image, "jpeg") for image in item.images]
        outputs["image"] = np.array([files], np.object_)
    return outputs


def _final(pictures: Pictures, asked: MockRequest, steps: int) -> Outputs:
    """The final answer to one prompt, [1, …] each."""
    count = asked.options.get("num_images_per_prompt", 1)
    images = [pictures] * count if isinstance(pictures, Image.Image) else pictures
    if not isinstance(images, Sequence) or [isinstance(image, Image.Image) for image in images] != [True] * count:
        raise TypeError(
            f"the handler of a MockTransport must give a picture, or a sequence of {count}, not {pictures!r}"
        )
    info = Info(
        model=asked.model,
        width=images[0].width,
        height=images[0].height,
        steps=steps,
        guidance_scale=asked.options.get("guidance_scale"),
        max_sequence_length=512,
        lora=asked.options.get("lora", ""),
        queue_ms=0.0,
        encode_ms=0.0,
        denoise_ms=0.0,
        decode_ms=0.0,
        total_ms=0.0,
        mean_batch=1.0,
    )
    first = asked.options.get("seed", 0)
    outputs = {
        "event": np.array([[b"final"]], np.object_),
        "seed": np.array([[first + index for index in range(count)]], np.int64),
        "info": np.array([[info.to_json().encode()]], np.object_),
    }
    kind = asked.options.get("output_format", "png")
    if kind == "raw":
        outputs["pixels"] = np.stack([np.asarray(image.convert("RGB")) for image in images])[None]
    else:
        outputs["image"] = np.array([[_file(image, kind) for image in images]], np.object_)
    return outputs


def _file(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, kind)
    return buffer.getvalue()
