"""How results and errors are told to programs and people."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxclient.errors import FluxError
from fluxclient.result import Result

_LONGEST_SUBJECT = 40


def result_values(result: Result, files: Sequence[Path | str]) -> dict[str, Any]:
    """A result, whose pictures are in `files`, for JSON."""
    return {
        "files": [str(file) for file in files],
        "seeds": list(result.seeds),
        "info": json.loads(result.info.to_json()),
        "request_id": result.request_id,
    }


def error_values(error: FluxError) -> dict[str, str]:
    """An error for JSON."""
    return {"code": error.code, "field": error.field, "text": error.text, "request_id": error.request_id}


def say_error(error: FluxError, *, subject: str = "", names: Mapping[str, str] | None = None) -> None:
    """One line on standard error. `subject` is what the request was for; `names` are other names for fields."""
    field = (names or {}).get(error.field, error.field)
    request = f" [request {error.request_id}]" if error.request_id else ""
    if len(subject) > _LONGEST_SUBJECT:
        subject = f"{subject[: _LONGEST_SUBJECT - 1]}…"
    say(": ".join(part for part in (subject, error.code, field, error.text) if part) + request)


def say(message: str) -> None:
    """One line on standard error, whatever is in the message."""
    print(f"fluxclient: {' '.join(message.split())}", file=sys.stderr, flush=True)
