"""`fluxclient batch`: draws a file of JSON lines into a folder, and goes on where it stopped."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from fluxclient import core
from fluxclient.async_client import AsyncFluxClient
from fluxclient.cli import server_options as server
from fluxclient.cli.batch_input import BadRows, Row, file_stems, read_rows
from fluxclient.cli.batch_manifest import MANIFEST, Manifest
from fluxclient.cli.display import Display
from fluxclient.cli.exit_codes import ExitCode, exit_code, is_not_ready
from fluxclient.cli.picture_files import PART, write_picture
from fluxclient.cli.report import error_values, result_values, say, say_error
from fluxclient.errors import ConnectionFailed, FluxError, NotFound
from fluxclient.health import Health
from fluxclient.result import Result
from fluxclient.task_pool import for_each

RETRIES = 8
"""Enough to bridge a restart of the server."""


@dataclass
class _Run:
    """One `fluxclient batch`."""

    client: AsyncFluxClient
    manifest: Manifest
    folder: Path
    stems: dict[str, list[str]]
    display: Display
    drawn: int = 0
    errors: list[FluxError] = field(default_factory=list)

    async def draw_all(self, rows: list[Row], concurrency: int) -> None:
        """Raises FluxError once the server or its model is gone: the other rows would fail as well."""
        async with self.client:
            if rows:
                _require(await self.client.health(), self.client)
            await for_each(rows, self._draw, concurrency)

    async def _draw(self, row: Row) -> None:
        try:
            result = await self.client.generate(row.prompt, **row.options)
        except FluxError as error:
            self.manifest.add(row, {"error": error_values(error)})
            self.display.end(row.line)
            if is_not_ready(error):
                raise
            self.errors.append(error)
            with self.display.paused():
                say_error(error, subject=f"line {row.line} (id {row.id})")
            return
        files = await asyncio.to_thread(self._write, row, result)
        self.manifest.add(row, result_values(result, files))
        self.drawn += 1
        self.display.end(row.line)

    def _write(self, row: Row, result: Result) -> list[str]:
        """The names of the pictures, in the folder."""
        stems = self.stems[row.key]
        return [write_picture(result, index, self.folder, stem).name for index, stem in enumerate(stems)]


def batch(
    source: Annotated[
        Path, typer.Argument(metavar="IN.jsonl", help="A JSON object a line: prompt, any option, and an id if wanted.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help=f"For the pictures and {MANIFEST}.")],
    quiet: server.Quiet = False,
    url: server.Url = core.DEFAULT_URL,
    model: server.Model = core.DEFAULT_MODEL,
    timeout: server.Timeout = core.DEFAULT_TIMEOUT_S,
    concurrency: server.Concurrency = core.DEFAULT_CONCURRENCY,
) -> None:
    """Draw many prompts into a folder, and resume.

    Started again, it draws only what the manifest does not have:
    what failed, what is new, and what was edited.

    Options have their names of Python: height, width, num_inference_steps,
    guidance_scale, seed, num_images_per_prompt, output_format, lora,
    negative_prompt, true_cfg_scale, image (the path of a file), strength,
    priority, deadline_ms, timeout. An id is the number of its line unless given.
    """
    try:
        rows = read_rows(server.read_text(source, "IN.jsonl"))
    except BadRows as error:
        for problem in error.problems:
            say(f"{source}, {problem}")
        raise typer.Exit(ExitCode.USAGE) from None
    client = server.connect(url, model, timeout=timeout, retries=RETRIES)
    stems = file_stems(rows)
    _make_folder(output)
    with Manifest(output) as manifest:
        if manifest.is_new:
            _refuse_foreign(output, stems, manifest)
        for part in output.glob(f"{PART}*"):  # of a run that was killed
            part.unlink()
        left = [row for row in rows if not manifest.has(row)]
        run = _Run(client, manifest, output, stems, Display(len(left), quiet=quiet))
        try:
            with run.display:
                asyncio.run(run.draw_all(left, concurrency))
        except (KeyboardInterrupt, FluxError):
            say(f"stopped with {run.drawn} of {len(left)} drawn; the same command goes on from there")
            raise
    if not quiet:
        already = len(rows) - len(left)
        print(f"{run.drawn} drawn, {already} there already, {len(run.errors)} failed: {manifest.path}")
    raise typer.Exit(exit_code(run.errors))


def _require(health: Health, client: AsyncFluxClient) -> None:
    """Raises FluxError unless requests can be sent: trying them all for long would not help."""
    if not health.ready:
        text = health.detail or f"the server at {client.url} is not ready"
        raise ConnectionFailed(text, field="server")
    if not health.model_ready:
        raise NotFound(health.detail or f"{client.model!r} is not ready on {client.url}", field="model")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{folder} cannot be a folder: {error.strerror}", param_hint="-o") from None


def _refuse_foreign(folder: Path, stems: dict[str, list[str]], manifest: Manifest) -> None:
    """Without a manifest no picture in the folder is ours, so none may be overwritten."""
    ours = {stem for names in stems.values() for stem in names}
    if foreign := sorted(file.name for file in folder.iterdir() if file.stem in ours):
        manifest.path.unlink()
        problem = f"{folder} has {foreign[0]}, which is not of a batch and would be overwritten; name another folder"
        raise typer.BadParameter(problem, param_hint="-o")
