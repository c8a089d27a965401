"""One request as it goes to the server: options checked and turned into tensors, whatever the transport."""

from __future__ import annotations

import math
import operator
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fluxclient.errors import InvalidArgument, shown
from fluxclient.inputs.lora import lora_text
from fluxclient.inputs.options import DATATYPES, Options
from fluxclient.inputs.source_image import image_file

Array = npt.NDArray[Any]

_INT32_MAX = 2**31 - 1
_FLOAT32_MAX = float(np.finfo(np.float32).max)

_DTYPES: Mapping[str, npt.DTypeLike] = {"INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BOOL": np.bool_}


@dataclass(frozen=True)
class Request:
    """A checked request. Each of `inputs` is [N, 1] for N prompts."""

    id: str
    prompts: tuple[str, ...]
    inputs: Mapping[str, Array]
    timeout_s: float | None
    """How long the client waits."""
    silence_s: float | None
    """How long the server may say nothing; None without limit."""
    deadline_ms: int
    """How long the server tries; 0 without limit."""
    priority: int

    @property
    def shows_progress(self) -> bool:
        """Whether the caller wants to see it."""
        return "progress" in self.inputs

    def with_events(self) -> Request:
        """The same request, whose server tells how far it is: what it says is also its sign of life."""
        return replace(self, inputs={**self.inputs, "progress": _tensor("progress", True, len(self.prompts))})

    def within(self, timeout_s: float | None) -> Request:
        """The same request in less time, here and on the server; its id is another, as an id is sent once."""
        if timeout_s is None or not self.deadline_ms:
            return replace(self, id=_new_id(), timeout_s=timeout_s)
        deadline_ms = min(self.deadline_ms, _milliseconds(timeout_s))
        inputs = {**self.inputs, "deadline_ms": _tensor("deadline_ms", deadline_ms, len(self.prompts))}
        return replace(self, id=_new_id(), inputs=inputs, timeout_s=timeout_s, deadline_ms=deadline_ms)


def build_request(
    prompts: tuple[str, ...],
    options: Mapping[str, object],
    *,
    timeout_s: float | None,
    silence_s: float | None = None,
    progress: bool = False,
) -> Request:
    """Checks types and what a tensor can hold; ranges are the server's to judge, which knows its limits.

    Raises InvalidArgument naming the option, and TypeError for an option that does not exist.
    """
    sent = dict(options)
    limit_s = seconds("timeout", sent.pop("timeout", timeout_s))
    if not prompts:
        raise InvalidArgument("is empty; send at least one", field="prompt")
    if unknown := [name for name in sent if name not in Options.__annotations__]:
        raise TypeError(f"there is no option {unknown[0]!r}; options are {', '.join(Options.__annotations__)}")
    if limit_s is not None:
        sent.setdefault("deadline_ms", _milliseconds(limit_s))
    if progress:
        sent["progress"] = True
    sent["base64"] = False  # gRPC carries the bytes of the files as they are; HTTP asks for text itself

    inputs = {"prompt": _column([_text("prompt", prompt) for prompt in prompts], object)}
    for name, value in sent.items():
        inputs[name] = _tensor(name, value, len(prompts))
    if not progress:
        inputs.pop(
            "preview_interval", None
        )  # nobody would see them, and the façade for several prompts has no such input
    return Request(
        id=_new_id(),
        prompts=prompts,
        inputs=inputs,
        timeout_s=limit_s,
        silence_s=silence_s,
        deadline_ms=_first(inputs, "deadline_ms"),
        priority=_first(inputs, "priority"),
    )


def seconds(name: str, value: object) -> float | None:
    """A limit; None is none. Raises InvalidArgument naming the setting."""
    if value is None:
        return None
    limit_s = _number(name, value)
    if not 0 < limit_s < math.inf:
        raise InvalidArgument(f"is {limit_s}; must be seconds, more than 0, or None for no limit", field=name)
    return limit_s


def _new_id() -> str:
    return uuid.uuid4().hex


def _milliseconds(seconds: float) -> int:
    return min(max(1, math.ceil(seconds * 1000)), _INT32_MAX)


def _tensor(name: str, value: object, rows: int) -> Array:
    """One value for all prompts: [N, 1]."""
    datatype = DATATYPES[name]
    if datatype == "BYTES":
        return _column([_bytes(name, value)] * rows, object)
    checked: object = value
    if datatype == "FP32":
        checked = _float32(name, value)
    elif datatype != "BOOL":
        checked = _integer(name, value, 32 if datatype == "INT32" else 64)
    return _column([checked] * rows, _DTYPES[datatype])


def _column(values: list[Any], dtype: npt.DTypeLike) -> Array:
    return np.array(values, dtype=dtype).reshape(-1, 1)


def _first(inputs: Mapping[str, Array], name: str) -> int:
    return int(inputs[name][0, 0]) if name in inputs else 0


def _bytes(name: str, value: object) -> bytes:
    if name == "image":
        return image_file(value)
    return _text(name, lora_text(value) if name == "lora" else value)


def _text(name: str, value: object) -> bytes:
    if not isinstance(value, str):
        raise InvalidArgument(f"is {shown(value)}; must be text", field=name)
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"cannot be written as UTF-8 (character {error.start})", field=name) from None


def _integer(name: str, value: object, bits: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidArgument(f"is {shown(value)}; must be an integer", field=name)
    number = operator.index(value)
    if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
        raise InvalidArgument(f"is {shown(value)}; must fit {bits} bits", field=name)
    return number


def _float32(name: str, value: object) -> float:
    number = _number(name, value)
    if not abs(number) <= _FLOAT32_MAX:
        raise InvalidArgument(f"is {shown(value)}; must be a finite number of 32 bits", field=name)
    return number


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise InvalidArgument(f"is {shown(value)}; must be a number", field=name)
    return float(value)
