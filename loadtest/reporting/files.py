"""Puts files where they belong, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtest.failures import BadInput, Broken
from loadtest.reporting.formats import FORMATS, fault
from loadtest.reporting.report import Report


def prepare_folder(folder: Path) -> None:
    """Makes it, and proves that it can be written to, before anything is measured. Raises BadInput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0" * 4096)
    except OSError as error:
        raise BadInput(f"--output {folder}: cannot be written to: {error.strerror}") from error


def save(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes as many as it can; a file that is there already is replaced only by a whole one. Raises Broken."""
    written, problems = [], []
    for name, content in files.items():
        path = folder / name
        draft = folder / f".{name}.draft"
        try:
            draft.write_bytes(content)
            os.replace(draft, path)
            written.append(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            problems.append(f"{path} was not written: {error.strerror}")
    if problems:
        raise Broken("; ".join(problems))
    return written


def publish(folder: Path, files: Mapping[str, bytes]) -> None:
    """As `save`; tells where they are, and that those of FORMATS keep to theirs. Raises Broken."""
    for path in save(folder, files):
        print(f"written: {path}", flush=True)
    for name in files.keys() & FORMATS.keys():
        if problem := fault(json.loads(files[name]), FORMATS[name]):
            raise Broken(f"{name} does not keep to {FORMATS[name]}, which is the lab's own fault: {problem}")


def table_csv(report: Report) -> bytes:
    """A line for each measurement of each strategy, with its figures."""
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for of in report.results:
        for measured, figures in zip(of.measurements, of.each, strict=True):
            row = {"strategy": of.strategy.name, "repeat": measured.repeat, "complete": not measured.problem}
            row |= asdict(figures)
            if writer is None:
                writer = csv.DictWriter(text, list(row))
                writer.writeheader()
            writer.writerow(row)
    return text.getvalue().encode()


def encode(document: Mapping[str, Any]) -> bytes:
    """Numbers to a millionth, which no clock here is better than."""
    return (json.dumps(_rounded(document), indent=1, allow_nan=False) + "\n").encode()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return value
