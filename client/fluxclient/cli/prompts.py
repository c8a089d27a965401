"""Which prompts a run draws."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from fluxclient.cli.server_options import decode, read_text


def read_prompts(prompt: str | None, file: Path | None) -> list[str]:
    """From the argument PROMPT (a prompt, `-`, or `@file`) or the option --prompts; blank lines are none.

    Raises BadParameter unless there is exactly one of the two, with at least one prompt.
    """
    if (prompt is None) == (file is None):
        raise typer.BadParameter("give either PROMPT or --prompts FILE", param_hint="PROMPT")
    if file is not None:
        return _lines(read_text(file, "--prompts"), str(file), "--prompts")
    assert prompt is not None  # by the first check
    if prompt == "-":
        return _lines(decode(sys.stdin.buffer.read(), "standard input", "PROMPT"), "standard input", "PROMPT")
    if prompt.startswith("@"):
        return _lines(read_text(Path(prompt[1:]), "PROMPT"), prompt[1:], "PROMPT")
    return [prompt]


def _lines(text: str, source: str, name: str) -> list[str]:
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise typer.BadParameter(f"{source} has no prompt; write one a line", param_hint=name)
    return prompts
