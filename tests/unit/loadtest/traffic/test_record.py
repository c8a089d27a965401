from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fluxclient import Overloaded
from loadtest.sending.answer import Answer, WrongAnswer, record_of
from loadtest.traffic.order import Order
from loadtest.traffic.record import Record, now_s, read_records

ORDER = Order("people", "a cat", 128, 64, 8, seed=7, priority=1)
INFO = {"queue_ms": 1.0, "encode_ms": 2.0, "denoise_ms": 3.0, "decode_ms": 4.0, "total_ms": 10.0, "mean_batch": 1.5}


def record(**change: Any) -> Record:
    answer = Answer(b"12345", 7, INFO, first_progress_s=103.0)
    values: dict[str, Any] = {"span_s": (100.0, 102.0, 104.0), "answer": answer, "error": None}
    return record_of("grpc-stream", ORDER, **{**values, **change})


def test_a_record_has_all_that_is_known() -> None:
    assert record().values() == {
        "name": "grpc-stream 128x64 8 steps",
        "protocol": "grpc-stream",
        "width": 128,
        "height": 64,
        "steps": 8,
        "priority": 1,
        "class": "people",
        "seed": 7,
        "intended": 100.0,
        "sent": 102.0,
        "first_progress": 103.0,
        "ended": 104.0,
        "ok": True,
        "error": None,
        **INFO,
        "bytes": 5,
    }


def test_latency_counts_from_the_intended_start() -> None:
    assert record().latency_ms == 4000


def test_a_failure_says_why_and_nothing_of_the_server() -> None:
    values = record(answer=None, error=Overloaded("no room", field="queue")).values()
    assert (values["ok"], values["error"]) == (False, {"code": "OVERLOADED", "text": "queue: no room"})
    assert [values[name] for name in (*INFO, "first_progress")] == [None] * 7
    assert values["bytes"] == 0


def test_a_wrong_answer_keeps_what_the_server_said() -> None:
    values = record(error=WrongAnswer("is 8; 7 was sent", field="seed")).values()
    assert (values["ok"], values["error"]["code"]) == (False, "WRONG_ANSWER")
    assert (values["total_ms"], values["bytes"]) == (10.0, 5)


def test_what_is_written_is_read_again_but_for_a_line_that_is_not_whole(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    assert read_records(file) == []
    line = json.dumps(record().values())
    file.write_text(f"{line}\n{line}\n{line[:20]}")
    assert read_records(file) == [record(), record()]
    file.write_text(f"{line[:20]}\n")
    with pytest.raises(ValueError, match="Unterminated"):
        read_records(file)


def test_moments_are_seconds_since_the_epoch() -> None:
    assert now_s() == pytest.approx(time.time(), abs=5)
