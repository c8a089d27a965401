"""`fluxclient generate`: draws prompts into files."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fluxclient import core
from fluxclient.async_client import AsyncFluxClient
from fluxclient.cli import server_options as server
from fluxclient.cli.display import Display
from fluxclient.cli.exit_codes import exit_code
from fluxclient.cli.model_options import model_option
from fluxclient.cli.number_parsers import number, whole
from fluxclient.cli.picture_files import FORMATS, Output
from fluxclient.cli.prompts import read_prompts
from fluxclient.cli.report import error_values, result_values, say_error
from fluxclient.errors import FluxError, InvalidArgument
from fluxclient.inputs.options import FLAGS, Options
from fluxclient.inputs.source_image import drawn_steps, image_file
from fluxclient.result import Result
from fluxclient.task_pool import for_each

_PREVIEWS = 4
_PREVIEW_INTERVAL = 4  # where the number of steps is the server's


@dataclass
class _Run:
    """One `fluxclient generate`: draws, writes, tells."""

    client: AsyncFluxClient
    options: Options
    output: Output
    display: Display
    as_json: bool
    quiet: bool
    errors: list[FluxError] = field(default_factory=list)

    async def draw_all(self, prompts: list[str], concurrency: int) -> None:
        async with self.client:
            await for_each(enumerate(prompts), self._draw, concurrency)

    async def _draw(self, numbered: tuple[int, str]) -> None:
        number, prompt = numbered
        try:
            result = await self._result(number, prompt)
        except FluxError as error:
            self._tell_error(number, prompt, error)
            return
        first = number * self.options.get("num_images_per_prompt", 1)
        files = await asyncio.to_thread(self.output.write, result, first)
        self.display.end(number, result)
        with self.display.paused():
            if self.as_json:
                print(json.dumps({"prompt": prompt, **result_values(result, files)}), flush=True)
            elif not self.quiet:
                print(*files, sep="\n", flush=True)

    async def _result(self, number: int, prompt: str) -> Result:
        if not self.display.live:
            return await self.client.generate(prompt, **self.options)
        last: Result | None = None
        async with aclosing(self.client.stream(prompt, **self.options)) as events:
            async for event in events:
                if isinstance(event, Result):
                    last = event
                else:
                    self.display.step(number, event)
        assert last is not None  # a stream without a result raises
        return last

    def _tell_error(self, number: int, prompt: str, error: FluxError) -> None:
        self.errors.append(error)
        self.display.end(number)
        with self.display.paused():
            if self.as_json:
                print(json.dumps({"prompt": prompt, "error": error_values(error)}), flush=True)
            say_error(error, subject=prompt, names=FLAGS)


def parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if match is None:
        raise typer.BadParameter(f"is {text!r}; must be WIDTHxHEIGHT, like 128x128")
    return int(match[1]), int(match[2])


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT|-|@FILE", help="What to draw; - or @FILE: one prompt a line from standard input or a file."
        ),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="Instead of PROMPT: one prompt a line.")
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="PLACE",
            help="File, overwritten (-0, -1 … for several pictures), or folder, where names come from prompt and seed.",
            show_default="current folder",
        ),
    ] = "",
    images: Annotated[int, model_option("num_images_per_prompt", metavar="N")] = 1,
    seed: Annotated[int | None, model_option("seed", metavar="N")] = None,
    size: Annotated[Any, model_option("width", metavar="WIDTHxHEIGHT", parser=parse_size)] = None,
    steps: Annotated[int | None, model_option("num_inference_steps", metavar="N")] = None,
    guidance: Annotated[float | None, model_option("guidance_scale", metavar="SCALE")] = None,
    file_format: Annotated[
        Literal["png", "jpeg", "webp"] | None,
        model_option("output_format", show_default="by the suffix of -o, else png"),
    ] = None,
    lora: Annotated[str | None, model_option("lora", metavar="NAME[:SCALE],…")] = None,
    negative_prompt: Annotated[str | None, model_option("negative_prompt", metavar="TEXT")] = None,
    true_cfg_scale: Annotated[float | None, model_option("true_cfg_scale", metavar="SCALE")] = None,
    image: Annotated[Path | None, model_option("image", metavar="FILE")] = None,
    strength: Annotated[float | None, model_option("strength", parser=number(0), metavar="SHARE")] = None,
    priority: Annotated[
        int | None, model_option("priority", parser=whole(1, 4), metavar="1-4", show_default="2")
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the pictures in the terminal while they come about.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line for each prompt, as they are done.")
    ] = False,
    quiet: server.Quiet = False,
    url: server.Url = core.DEFAULT_URL,
    model: server.Model = core.DEFAULT_MODEL,
    timeout: server.Timeout = core.DEFAULT_TIMEOUT_S,
    concurrency: server.Concurrency = core.DEFAULT_CONCURRENCY,
) -> None:
    """Draw pictures of prompts.

    The names of the files go to standard output, one a line.

    What the options leave open, the server decides.
    """
    texts = read_prompts(prompt, prompts)
    _refuse_in_vain(negative_prompt, true_cfg_scale)
    place = Output.chosen(output, len(texts) * images)
    display = Display(len(texts), quiet=quiet, preview=preview)
    given: Mapping[str, Any] = {
        "num_images_per_prompt": images if images > 1 else None,
        "seed": seed,
        "width": size and size[0],
        "height": size and size[1],
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "output_format": _format(file_format, place),
        "lora": lora,
        "negative_prompt": negative_prompt,
        "true_cfg_scale": true_cfg_scale,
        "image": image and _source(image),
        "strength": strength,
        "priority": priority,
        "preview_interval": _preview_interval(steps, strength) if display.previewing else None,
    }
    options = Options(**{name: value for name, value in given.items() if value is not None})  # type: ignore[typeddict-item]
    run = _Run(
        server.connect(url, model, timeout=timeout, retries=core.DEFAULT_RETRIES),
        options,
        place,
        display,
        as_json,
        quiet,
    )
    place.make_folder()
    with display:
        asyncio.run(run.draw_all(texts, concurrency))
    raise typer.Exit(exit_code(run.errors))


def _format(file_format: str | None, output: Output) -> str | None:
    """What to ask the server for: it need not be converted here then."""
    of_suffix = FORMATS.get(output.suffix.lower())
    if file_format and output.suffix and file_format != of_suffix:
        problem = f"is {file_format}, but -o names a file with the suffix {output.suffix}; leave one of them out"
        raise typer.BadParameter(problem, param_hint="--format")
    return file_format or of_suffix


def _refuse_in_vain(negative_prompt: str | None, true_cfg_scale: float | None) -> None:
    """The server takes a negative prompt that changes nothing; whoever types one wants more."""
    if negative_prompt is not None and (true_cfg_scale is None or true_cfg_scale <= 1):
        problem = "changes nothing without a --true-cfg-scale of more than 1"
        raise typer.BadParameter(problem, param_hint="--negative-prompt")


def _source(image: Path) -> bytes:
    """The file, once for all prompts."""
    try:
        return image_file(image)
    except InvalidArgument as error:
        raise typer.BadParameter(error.text, param_hint="--image") from None


def _preview_interval(steps: int | None, strength: float | None) -> int:
    if steps is None:
        return _PREVIEW_INTERVAL
    drawn = steps if strength is None else drawn_steps(steps, strength)
    return max(1, drawn // _PREVIEWS)
