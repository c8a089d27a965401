"""The formats of what the lab writes: JSON schemas, each with a version. A change is a new version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource

from tools.triton.api import JSON

HERE = Path(__file__).parent / "schemas"
RESULTS, SWEEP, PERF = "schema.json", "sweep.schema.json", "perf.schema.json"
FORMATS = {"results.json": RESULTS, "sweep.json": SWEEP, "perf.json": PERF}
VERSIONS = {RESULTS: 2, SWEEP: 2, PERF: 1}
SCHEMAS: dict[str, JSON] = {name: json.loads((HERE / name).read_text()) for name in (RESULTS, SWEEP, PERF)}
_REGISTRY: Registry[bool | Mapping[str, Any]] = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items()
)


def fault(document: object, schema: str) -> str:
    """Where a document does not keep to one of SCHEMAS, and why; empty if it does."""
    validator = jsonschema.Draft202012Validator(SCHEMAS[schema], registry=_REGISTRY)
    problem = jsonschema.exceptions.best_match(validator.iter_errors(document))
    return f"{problem.json_path}: {problem.message}" if problem is not None else ""
