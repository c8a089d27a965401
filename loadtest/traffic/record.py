"""What is kept of each request: a line of JSON, written as the request ends."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fluxclient import FluxError
from loadtest.sending.answer import Answer
from loadtest.traffic.order import Order

MARKER = ".partial"
"""Added to a record file's name."""

_EPOCH_S = time.time() - time.monotonic()


def now_s() -> float:
    """Seconds since the epoch, by a clock that nobody sets while a test runs."""
    return _EPOCH_S + time.monotonic()


@dataclass(frozen=True)
class Record:
    """One finished request. Moments are seconds since the epoch; what the server did not say is None."""

    name: str
    protocol: str
    width: int
    height: int
    steps: int
    priority: int
    kind: str
    """`class` in the file."""
    seed: int
    intended: float
    """When it was to be sent: latency counts from here. In a closed loop the same as `sent`."""
    sent: float
    first_progress: float | None
    ended: float
    ok: bool
    error: dict[str, str] | None
    queue_ms: float | None
    encode_ms: float | None
    denoise_ms: float | None
    decode_ms: float | None
    total_ms: float | None
    mean_batch: float | None
    bytes: int
    """Of the picture's file."""

    @classmethod
    def of(
        cls,
        protocol: str,
        order: Order,
        *,
        intended_s: float,
        sent_s: float,
        ended_s: float,
        answer: Answer | None,
        error: FluxError | None,
    ) -> Record:
        """`answer` where one came, `error` where something is wrong with it or nothing came."""
        info = answer.info if answer else {}
        return cls(
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
            queue_ms=info.get("queue_ms"),
            encode_ms=info.get("encode_ms"),
            denoise_ms=info.get("denoise_ms"),
            decode_ms=info.get("decode_ms"),
            total_ms=info.get("total_ms"),
            mean_batch=info.get("mean_batch"),
            bytes=len(answer.file) if answer else 0,
        )

    @property
    def latency_ms(self) -> float:
        return (self.ended - self.intended) * 1000

    def line(self) -> str:
        values: dict[str, Any] = asdict(self)
        return json.dumps({"class" if name == "kind" else name: value for name, value in values.items()})


class RecordFile:
    """Begins empty. A crash leaves all lines but perhaps the last whole.

    Beside it lies FILE.partial until the test has come to its end, so that it stays after a crash; and afterwards where
    the records are not all that there should be, with the reason in it.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError, as `write` does."""
        self._file = open(path, "w", buffering=1)  # noqa: SIM115 - as long as the test
        self._marker = Path(f"{path}{MARKER}")
        if self._is_regular:  # not beside a device
            self._marker.write_text("the test did not come to its end\n")

    def write(self, line: str) -> None:
        self._file.write(f"{line}\n")

    def close(self, problem: str = "") -> None:
        """`problem` says why records are missing, if any are."""
        with suppress(OSError):  # of a full disk, which `write` has told of
            self._file.close()
        if not self._is_regular:
            return
        if problem:
            with suppress(OSError):  # then the marker stays as it was in the beginning
                self._marker.write_text(f"{problem}\n")
        else:
            self._marker.unlink(missing_ok=True)

    @property
    def _is_regular(self) -> bool:
        return Path(self._file.name).is_file()
