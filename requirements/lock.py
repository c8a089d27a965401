"""Writes constraints.txt: the version of every package that the requirements draw in, for each Python.

    .venv/bin/python requirements/lock.py python3.10 python3.11 python3.12 python3.13

asks pip of the running environment what it would install for these interpreters, in a new environment and without the
old constraints. Run it after a change of a version in requirements/, with all four. Options for pip: PIP_… variables.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CONSTRAINTS = FOLDER / "constraints.txt"
# The container brings its own Python.
CONTAINER_PYTHON = "3.12"
# torch names the exact versions of its GPU libraries itself, and a CPU build has none of them. perf_analyzer, drawn in
# by tritonclient and not used, has its newer releases only for newer systems.
LEFT_OUT = re.compile(r"nvidia-(?!pytriton)|triton$|cuda-|perf-analyzer$")


def resolve(python: str, requirements: Path) -> tuple[str, dict[str, str]]:
    """The version of this Python, and the version of each package by its name."""
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--report", "-", "-r", str(requirements)]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    packages = {}
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        packages[name] = item["metadata"]["version"].partition("+")[0]  # torch's +cpu is this machine's choice
    return ".".join(report["environment"]["python_full_version"].split(".")[:2]), packages


def direct() -> set[str]:
    """The packages that the requirements themselves name."""
    lines = "\n".join(path.read_text() for path in FOLDER.glob("*.txt") if path != CONSTRAINTS)
    return set(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==", lines, re.MULTILINE))


def constraints(resolved: dict[str, dict[str, str]]) -> str:
    """The text of constraints.txt, from the packages by Python version."""
    versions: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for python, packages in resolved.items():
        for name, version in packages.items():
            versions[name][python] = version
    lines = [
        "# Written by requirements/lock.py. What the requirements draw in; the direct ones are pinned where they stand."
    ]
    for name in sorted(versions.keys() - direct()):
        by_python = versions[name]
        if LEFT_OUT.match(name):
            continue
        if len(set(by_python.values())) == 1:
            lines.append(f"{name}=={next(iter(by_python.values()))}")
        else:
            lines += [f'{name}=={by_python[python]}; python_version == "{python}"' for python in by_python]
    return "\n".join(lines) + "\n"


def main() -> None:
    CONSTRAINTS.write_text("")
    resolved: dict[str, dict[str, str]] = {}
    for python in sys.argv[1:]:
        version, packages = resolve(python, FOLDER / "dev.txt")
        resolved[version] = packages
        if version == CONTAINER_PYTHON:
            _, container = resolve(python, FOLDER / "container.txt")
            resolved[version] = container | packages
    CONSTRAINTS.write_text(constraints(resolved))


if __name__ == "__main__":
    main()
