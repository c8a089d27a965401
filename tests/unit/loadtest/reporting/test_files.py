from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest

from loadtest.failures import BadInput, Broken
from loadtest.reporting.files import prepare_folder, save, table_csv
from tests.unit.loadtest.lab.measured import two_strategies


def test_csv_has_a_line_for_each_run() -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(two_strategies()).decode())))
    assert [(row["strategy"], row["repeat"]) for row in rows] == [
        (name, repeat) for name in ("baseline", "async") for repeat in "123"
    ]
    assert float(rows[0]["mean_ms"]) == pytest.approx(1150)


def test_saving_replaces_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("old")

    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(Broken, match=r"a\.json was not written: No space left on device"):
            save(tmp_path, {"a.json": b"new"})
    assert (tmp_path / "a.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert save(tmp_path, {"a.json": b"new"}) == [tmp_path / "a.json"]
    assert (tmp_path / "a.json").read_text() == "new"


def test_a_full_disk_is_noticed_before_anything_is_measured() -> None:
    if not os.access("/dev/full", os.W_OK):
        pytest.skip("no /dev/full here")
    with pytest.raises(BadInput, match="--output /dev/full"):
        prepare_folder(Path("/dev/full"))
