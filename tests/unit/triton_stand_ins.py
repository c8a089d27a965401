"""What Triton's Python backend gives to a model, as far as ours use it."""

from __future__ import annotations

import importlib
import sys
import weakref
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

FINAL = 1
MODULES = ("last_response", "local_server", "termination", "triton_metrics", "triton_reply", "local_client")
"""Ours that import Triton's module, or one that does."""


class Tensor:
    def __init__(self, name: str, array: npt.NDArray[Any]) -> None:
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> npt.NDArray[Any]:
        return self._array


class TritonError:
    INVALID_ARG, NOT_FOUND, UNAVAILABLE, CANCELLED, INTERNAL = (
        "INVALID_ARG",
        "NOT_FOUND",
        "UNAVAILABLE",
        "CANCELLED",
        "X",
    )

    def __init__(self, message: str, code: str) -> None:
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> str:
        return self._code


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self._tensors = list(output_tensors)
        self._error = error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors


class Sender:
    """Drops what nobody asked for while it sends, as Triton does, and notes what is freed by that."""

    def __init__(self, *, once: bool = False) -> None:
        self.once = once
        """Of a model that is not decoupled."""
        self.calls = 0
        self.sent: list[dict[str, Any]] = []
        """The outputs of each response, or {"error": message}."""
        self.codes: list[str] = []
        self.finals = 0
        self.freed: list[str] = []
        self.looks = 0
        self.left = False
        self.failures = 0
        """How many of the next responses with tensors cannot be sent."""

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        assert self.finals == 0, "Unable to send response. Response sender has been closed."
        self.calls += 1
        if self.once and response is not None and self.calls > 1:  # Triton counts those that it could not send as well
            raise RuntimeError("Non-decoupled model cannot send more than one response.")
        self.finals += flags == FINAL
        error = response.error() if response is not None else None
        if error is not None:
            assert flags == FINAL, "Triton loses an error that is followed by an end"
            self.sent.append({"error": error.message()})
            self.codes.append(error.code())
        elif response is not None:
            if self.failures > 0:
                self.failures -= 1
                raise RuntimeError("Failed to increase the shared memory pool size")
            tensors = response.output_tensors()
            self.sent.append({tensor.name(): tensor.as_numpy() for tensor in tensors})
            alive = {tensor.name(): weakref.ref(tensor) for tensor in tensors}
            tensors.clear()
            self.freed += [name for name, tensor in alive.items() if tensor() is None]

    def is_cancelled(self) -> bool:
        assert self.finals == 0, "asking a sender that has sent its last response kills the server"
        self.looks += 1
        return self.left

    @property
    def events(self) -> list[str]:
        return [outputs["event"][0, 0] for outputs in self.sent if "event" in outputs]

    @property
    def errors(self) -> list[str]:
        return [outputs["error"] for outputs in self.sent if "error" in outputs]


class Request:
    """One prompt, as Triton hands it over."""

    def __init__(
        self, parameters: str = "{}", wanted: Sequence[str] = (), *, once: bool = False, **inputs: Any
    ) -> None:
        self.sender = Sender(once=once)
        self._parameters = parameters
        self._wanted = wanted
        self._inputs = {"prompt": np.array([[b"a cat"]], object), **inputs}

    def request_id(self) -> str:
        return "id"

    def parameters(self) -> str:
        return self._parameters

    def timeout(self) -> int:
        return 0

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, array) for name, array in self._inputs.items()]

    def requested_output_names(self) -> Sequence[str]:
        return self._wanted

    def get_response_sender(self) -> Sender:
        return self.sender


def triton_module() -> ModuleType:
    triton: Any = ModuleType("triton_python_backend_utils")
    triton.Tensor, triton.InferenceResponse, triton.TritonError = Tensor, InferenceResponse, TritonError
    triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
    return triton  # type: ignore[no-any-return]


def import_beside_triton(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """One of our modules, for one test."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton_module())
    for ours in MODULES:
        monkeypatch.delitem(sys.modules, ours, raising=False)
    module = importlib.import_module(name)
    for ours in MODULES:
        monkeypatch.delitem(sys.modules, ours, raising=False)
    return module
