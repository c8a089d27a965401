"""What a server does in the tests of the command, and the command itself as a process."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import deserialize_bytes_tensor

from tests.unit.client.fakes.answers import end, error, final, picture, step
from tests.unit.client.fakes.grpc_server import Behaviour

BOUND_S = 20.0
"""Far more than anything here takes, and what a hang would exceed."""

HEIGHT_MESSAGE = "FLUX_INVALID_ARGUMENT: height: is 7; must be a multiple of 16 [request 1]"

_DTYPES = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}
_KINDS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


def inputs_of(request: Any) -> dict[str, Any]:
    """The inputs of a request with one prompt, by name."""
    values: dict[str, Any] = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.name == "image":
            values[tensor.name] = deserialize_bytes_tensor(raw)[0]
        elif tensor.datatype == "BYTES":
            values[tensor.name] = deserialize_bytes_tensor(raw)[0].decode()
        else:
            values[tensor.name] = np.frombuffer(raw, _DTYPES[tensor.datatype])[0].item()
    return values


def draw(request: Any, context: Any) -> Iterator[Any]:
    """Red pictures, in the format and with the seed that were asked for."""
    inputs = inputs_of(request)
    count, seed = inputs.get("num_images_per_prompt", 1), inputs.get("seed", 7)
    file = picture(kind=_KINDS[inputs.get("output_format", "png")])
    yield final([[file] * count], [[seed + index for index in range(count)]])


def draw_in_steps(request: Any, context: Any) -> Iterator[Any]:
    yield step(1, 2)
    yield step(2, 2)
    yield from draw(request, context)
    yield end()


def stay(request: Any, context: Any) -> Iterator[Any]:
    """Nothing, for as long as the caller is there."""
    gone = threading.Event()
    if context.add_callback(gone.set):  # else it has left already
        gone.wait(BOUND_S)
    return iter(())


def refuse(messages: dict[str, str], otherwise: Behaviour = draw) -> Behaviour:
    """Answers these prompts with an error."""

    def behave(request: Any, context: Any) -> Iterator[Any]:
        message = messages.get(inputs_of(request)["prompt"])
        yield from iter([error(message)]) if message else otherwise(request, context)

    return behave


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "fluxclient", *map(str, arguments)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **{**pipes, **options})


def wait_until(reached: Callable[[], bool]) -> bool:
    turn = threading.Event()
    for _ in range(int(BOUND_S / 0.01)):
        if reached():
            return True
        turn.wait(0.01)
    return reached()


def type_in(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into its standard input, where it runs in this process."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
