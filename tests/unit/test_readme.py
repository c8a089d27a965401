"""README.md says what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from fluxengine.config import EngineConfig
from fluxengine.metrics import METRICS

README = (Path(__file__).parents[2] / "README.md").read_text()


def _first_column() -> set[str]:
    cells = re.findall(r"^\| ([^|]+) \|", README, re.MULTILINE)
    return {name.strip() for cell in cells for name in cell.split(",")}


def test_every_parameter_is_in_the_configuration_table() -> None:
    assert {field.name for field in dataclasses.fields(EngineConfig)} <= _first_column()


def test_every_metric_is_named() -> None:
    missing = {metric.name for metric in METRICS if metric.name.removeprefix("flux_prompt_cache") not in README}
    assert not missing


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links
    files = [link.partition("#")[0] for link in links if not link.startswith("#")]
    assert [file for file in files if not (Path(__file__).parents[2] / file).exists()] == []


def test_linked_sections_exist() -> None:
    sections = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ ([\w -]+)$", README, re.MULTILINE)}
    linked = set(re.findall(r"\]\(#([^)]+)\)", README))
    assert linked
    assert linked <= sections
