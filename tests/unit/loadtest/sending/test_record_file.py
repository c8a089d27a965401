from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.sending.record_file import RecordFile


def test_lines_are_there_at_once_and_the_file_begins_empty(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("of another run\n")
    file = RecordFile(str(path))
    file.write({"seed": 1})
    file.write({"seed": 2})
    assert path.read_text() == '{"seed": 1}\n{"seed": 2}\n'
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
        file.write({"seed": 1})
    file.close("the disk is full")
    assert not Path("/dev/full.partial").exists()
