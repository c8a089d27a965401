from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fluxclient import Overloaded
from loadtest.sending.answer import Answer, WrongAnswer
from loadtest.traffic.order import Order
from loadtest.traffic.record import Record, RecordFile, now_s

ORDER = Order("people", "a cat", 128, 64, 8, seed=7, priority=1)
INFO = {"queue_ms": 1.0, "encode_ms": 2.0, "denoise_ms": 3.0, "decode_ms": 4.0, "total_ms": 10.0, "mean_batch": 1.5}


def record(**change: Any) -> Record:
    answer = Answer(b"12345", 7, INFO, first_progress_s=103.0)
    values: dict[str, Any] = {"intended_s": 100.0, "sent_s": 102.0, "ended_s": 104.0, "answer": answer, "error": None}
    return Record.of("grpc-stream", ORDER, **{**values, **change})


def test_a_line_has_all_that_is_known() -> None:
    assert json.loads(record().line()) == {
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
    line = json.loads(record(answer=None, error=Overloaded("no room", field="queue")).line())
    assert (line["ok"], line["error"]) == (False, {"code": "OVERLOADED", "text": "queue: no room"})
    assert [line[name] for name in (*INFO, "first_progress")] == [None] * 7
    assert line["bytes"] == 0


def test_a_wrong_answer_keeps_what_the_server_said() -> None:
    line = json.loads(record(error=WrongAnswer("is 8; 7 was sent", field="seed")).line())
    assert (line["ok"], line["error"]["code"], line["total_ms"], line["bytes"]) == (False, "WRONG_ANSWER", 10.0, 5)


def test_lines_are_there_at_once_and_the_file_begins_empty(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("of another run\n")
    file = RecordFile(str(path))
    file.write("one")
    file.write("two")
    assert path.read_text() == "one\ntwo\n"
    file.close()


def test_a_marker_lies_beside_records_that_are_not_whole(tmp_path: Path) -> None:
    path, marker = tmp_path / "records.jsonl", tmp_path / "records.jsonl.partial"
    file = RecordFile(str(path))
    assert marker.read_text() == "the test did not come to its end\n"  # what a crash leaves
    file.close("a worker was lost")
    assert marker.read_text() == "a worker was lost\n"
    RecordFile(str(path)).close()
    assert not marker.exists()


def test_a_full_disk_is_an_error() -> None:
    file = RecordFile("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        file.write("one")
    file.close("the disk is full")
    assert not Path("/dev/full.partial").exists()


def test_moments_are_seconds_since_the_epoch() -> None:
    assert now_s() == pytest.approx(time.time(), abs=5)
