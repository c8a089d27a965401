"""What comes back, and whether it is what was asked for: a wrong picture is a failure, not a success."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fluxclient import FluxError, ServerError
from loadtest.traffic.order import Order
from loadtest.traffic.record import Record
from tools.tiny_flux.pictures import PICTURE_SIZE
from tools.tiny_flux.prompts import COLOURS, Scene, all_combinations, caption
from tools.tiny_flux.recognise import Recogniser

SERVERS_FIGURES = ("queue_ms", "encode_ms", "denoise_ms", "decode_ms", "total_ms", "mean_batch")
"""What a record takes of the server's info, where that has it."""


class WrongAnswer(ServerError):
    """The server answered, but not with what was asked for; `field` says what is wrong."""

    codes = ("WRONG_ANSWER",)


@dataclass(frozen=True)
class Answer:
    """The final answer to one order."""

    file: bytes
    seed: int
    info: Mapping[str, Any]
    first_progress_s: float | None = None
    """When the first step was told of; None over protocols that tell nothing before the end."""


def check(answer: Answer, order: Order, *, prompts: bool) -> None:
    """Raises WrongAnswer if the picture does not decode, has another size, seed or number of steps than asked for.

    With `prompts`, what it shows must be what its prompt says as well. flux-tiny was trained for pictures of 128x128
    only, so others are not looked at.
    """
    if answer.seed != order.seed:
        raise WrongAnswer(f"is {answer.seed}; {order.seed} was sent", field="seed")
    if answer.info.get("steps") != order.num_inference_steps:
        problem = f"are {answer.info.get('steps')}; {order.num_inference_steps} were asked for"
        raise WrongAnswer(problem, field="steps")
    try:
        with Image.open(io.BytesIO(answer.file)) as picture:
            picture.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: Pillow, of a broken PNG
        raise WrongAnswer(f"does not decode: {error}", field="image") from error
    if picture.size != (order.width, order.height):
        width, height = picture.size
        raise WrongAnswer(f"is {width}x{height}; {order.width}x{order.height} was asked for", field="size")
    if prompts and picture.size == (PICTURE_SIZE, PICTURE_SIZE):
        _check_prompt(picture, order)


def record_of(
    protocol: str, order: Order, span_s: tuple[float, float, float], answer: Answer | None, error: FluxError | None
) -> Record:
    """`answer` where one came, `error` where something is wrong with it or nothing came.

    `span_s`: when the order was to be sent, was sent, and ended.
    """
    info = answer.info if answer else {}
    intended_s, sent_s, ended_s = span_s
    return Record(
        name=f"{protocol} {order.label}",
        protocol=protocol,
        width=order.width,
        height=order.height,
        steps=order.num_inference_steps,
        priority=order.priority,
        kind=order.kind,
        seed=order.seed,
        intended=intended_s,
        sent=sent_s,
        first_progress=answer.first_progress_s if answer else None,
        ended=ended_s,
        ok=error is None,
        error={"code": error.code, "text": f"{error.field}: {error.text}"} if error else None,
        **{name: info.get(name) for name in SERVERS_FIGURES},
        bytes=len(answer.file) if answer else 0,
    )


def unreadable(error: Exception) -> ServerError:
    return ServerError(f"the answer cannot be read: {type(error).__name__}: {error}", field="answer")


def get_ready() -> Iterator[None]:
    """Draws what pictures are compared with, a second's work, before a test begins and not in the middle of it.

    It yields between the parts, so that whoever does this in a greenlet can let others run.
    """
    for colour in COLOURS.values():
        _recogniser()(Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), colour))
        yield


def _check_prompt(picture: Image.Image, order: Order) -> None:
    scene = _scenes().get(order.prompt)
    if scene is None:
        raise WrongAnswer(f"cannot be checked: {order.prompt!r} is no caption of flux-tiny", field="prompt")
    seen = _recogniser()(picture)
    if (seen.background, seen.subject) != (scene.background, scene.subject):
        problem = f"shows {seen.subject} on {seen.background}; the prompt was {order.prompt!r}"
        raise WrongAnswer(problem, field="picture")


@functools.cache
def _scenes() -> Mapping[str, Scene]:
    return {caption(scene): scene for scene in all_combinations()}


@functools.cache
def _recogniser() -> Recogniser:
    return Recogniser()
