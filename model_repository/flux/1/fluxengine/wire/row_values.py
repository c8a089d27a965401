"""The values of one request's inputs, row by row, numbers checked against the table of inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

from fluxengine.errors import InvalidArgument
from fluxengine.wire.inputs import INPUTS

T = TypeVar("T")
Value = bytes | int | float | bool


class RowValues:
    """All raise InvalidArgument naming the input, what was sent and what is allowed.

    A default or a largest value that the table leaves to the operator is handed in.
    """

    def __init__(self, inputs: Mapping[str, Sequence[Value]]) -> None:
        """`inputs` has the values of each input that was sent, text as bytes; of `prompt` at least one."""
        self.count = len(inputs["prompt"])
        self._inputs = inputs
        for name, values in inputs.items():
            if len(values) != self.count:
                raise InvalidArgument(name, f"has {len(values)} rows and prompt has {self.count}; send one for each")

    def __contains__(self, name: str) -> bool:
        return name in self._inputs

    def where(self, row: int) -> str:
        """The beginning of what is said of one row."""
        return f"row {row} " if self.count > 1 else ""

    def files(self, name: str) -> list[bytes]:
        return [bytes(value) for value in self._sent(name, b"")]  # type: ignore[arg-type]

    def switches(self, name: str) -> list[bool]:
        return [bool(value) for value in self._sent(name, INPUTS[name].default)]

    def texts(self, name: str) -> list[str]:
        decoded = []
        for n, value in enumerate(self._sent(name, str(INPUTS[name].default or "").encode())):
            try:
                decoded.append(value.decode())  # type: ignore[union-attr]
            except UnicodeDecodeError as error:
                raise InvalidArgument(name, f"{self.where(n)}is not UTF-8 text (byte {error.start})") from None
        return decoded

    def integers(self, name: str, *, default: int | None = None, high: int | None = None) -> list[int]:
        described = INPUTS[name]
        low, high, step = _bound(described.low), _bound(described.high, high), described.multiple_of
        numbers = [int(value) for value in self._sent(name, described.default if default is None else default)]
        for n, number in enumerate(numbers):
            if not low <= number <= high or number % step:
                kind = f"a multiple of {step}" if step > 1 else "an integer"
                raise InvalidArgument(name, f"{self.where(n)}is {number}; must be {kind} from {low} to {high}")
        return numbers

    def numbers(self, name: str, *, default: float | None = None) -> list[float]:
        described = INPUTS[name]
        low, high = described.low, described.high
        assert low is not None and high is not None
        sent = self._sent(name, described.default if default is None else default)
        # As they were meant: 0.6 comes as the float32 next to it, which is more, and a step less would be skipped.
        numbers = [float(f"{float(value):.7g}") for value in sent]
        for n, number in enumerate(numbers):
            if not (math.isfinite(number) and low <= number <= high):
                raise InvalidArgument(name, f"{self.where(n)}is {number:g}; must be a number from {low:g} to {high:g}")
        return numbers

    def shared(self, name: str, values: Sequence[T]) -> T:
        """The value of an input that is about the whole answer, which its rows must agree on."""
        if any(value != values[0] for value in values):
            raise InvalidArgument(
                name, f"differs between rows ({', '.join(map(str, values))[:200]}); must be one for all"
            )
        return values[0]

    def _sent(self, name: str, default: Value | str | None) -> Sequence[Value]:
        return self._inputs.get(name) or [default] * self.count  # type: ignore[list-item]


def _bound(in_table: float | None, of_operator: int | None = None) -> int:
    bound = in_table if in_table is not None else of_operator
    assert bound is not None, "neither the table of inputs nor the operator says"
    return int(bound)
