"""What servers do in the tests of the clients, and what is waited for."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from tests.unit.client.fakes.answers import end, error, final, picture, step, texts

BOUND_S = 10.0
"""Far more than anything here takes, and what a hang would exceed."""


def inputs_of(request: Any) -> dict[str, list[Any]]:
    """The values of each input, one for each prompt."""
    values = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.name == "image":
            values[tensor.name] = list(deserialize_bytes_tensor(raw))
        elif tensor.datatype == "BYTES":
            values[tensor.name] = [text.decode() for text in deserialize_bytes_tensor(raw)]
        else:
            values[tensor.name] = np.frombuffer(raw, triton_to_np_dtype(tensor.datatype)).tolist()
    return values


def prompts_of(request: Any) -> list[str]:
    return inputs_of(request)["prompt"]


def draw(request: Any, context: Any) -> Iterator[Any]:
    """One red picture for each prompt."""
    rows = len(prompts_of(request))
    yield final([[picture()]] * rows, [[7]] * rows)


def draw_in_steps(request: Any, context: Any) -> Iterator[Any]:
    yield step(1, 2)
    yield step(2, 2, "preview", image=texts([[picture("blue", size=(4, 4))]]))
    yield from draw(request, context)
    yield end()


def stay(request: Any, context: Any) -> Iterator[Any]:
    """One step, and then nothing for as long as the caller is there."""
    yield step(1, 8)
    yield from stay_silently(request, context)


def stay_silently(request: Any, context: Any) -> Iterator[Any]:
    gone = threading.Event()
    if context.add_callback(gone.set):  # else it has left already
        gone.wait(30)
    yield from ()


def say(message: str) -> Callable[[Any, Any], Iterator[Any]]:
    return lambda request, context: iter([error(message)])


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(reached: Callable[[], bool]) -> bool:
    end_at = time.monotonic() + BOUND_S
    while not reached() and time.monotonic() < end_at:
        time.sleep(0.005)
    return reached()


async def no_task_left() -> bool:
    """Whether all tasks but the test's own end; those inside gRPC take a moment."""
    end_at = time.monotonic() + BOUND_S
    while len(asyncio.all_tasks()) > 1 and time.monotonic() < end_at:
        await asyncio.sleep(0.005)
    return len(asyncio.all_tasks()) == 1
