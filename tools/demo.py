"""`python -m tools.demo`: starts Triton, sends a dozen prompts at once, shows their progress, keeps a contact sheet."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from fluxclient import AsyncFluxClient, FluxError, Progress, Result
from tools.tiny_flux.prompts import caption, held_out_combinations
from tools.triton.errors import ServerFailed, TritonNotFound
from tools.triton.server import TritonServer

OUTPUT = Path("out/demo.png")
COUNT = 12
STEPS = (4, 6, 8, 12)
GUIDANCE = (2.0, 3.5, 5.0)
TIMEOUT_S = 120.0

CELL = 256  # pixels of a picture's edge on the sheet
MARGIN = 16
CAPTION = 64
COLUMNS = 4


@dataclass(frozen=True)
class Order:
    """A prompt and how to draw it."""

    prompt: str
    steps: int
    guidance: float
    seed: int


@dataclass(frozen=True)
class Drawing:
    """What an order came to, and how long its caller waited."""

    order: Order
    image: Image.Image
    seconds: float
    mean_batch: float


def make_orders() -> list[Order]:
    """Prompts that differ in everything, of combinations that flux-tiny was not trained on; the same each time."""
    scenes = held_out_combinations()
    random.Random(1).shuffle(scenes)
    prompts = list({scene.thing: caption(scene) for scene in scenes}.values())[:COUNT]
    return [
        Order(prompt, STEPS[n % len(STEPS)], GUIDANCE[n % len(GUIDANCE)], seed=n) for n, prompt in enumerate(prompts)
    ]


class Display:
    """A bar for each order on a terminal; elsewhere, a line for each that is done."""

    def __init__(self, console: Console, orders: Sequence[Order]) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._tasks: dict[Order, TaskID] = {}
        if console.is_terminal:
            prompt, took = TextColumn("{task.description}"), TextColumn("{task.fields[took]}")
            self._bars = Bars(prompt, BarColumn(), MofNCompleteColumn(), took, console=console)
            for order in orders:
                self._tasks[order] = self._bars.add_task(order.prompt, total=order.steps, took="")

    def live(self) -> AbstractContextManager[object]:
        return self._bars or nullcontext()

    def step(self, order: Order, step: int) -> None:
        if self._bars:
            self._bars.update(self._tasks[order], completed=step)

    def done(self, drawing: Drawing) -> None:
        order, took = drawing.order, f"{drawing.seconds:.2f} s"
        if self._bars:
            self._bars.update(self._tasks[order], completed=order.steps, took=took)
        else:
            self._console.print(f"{took:>8}  {order.steps:2} steps  {order.prompt}")


async def draw_all(url: str, orders: Sequence[Order], display: Display) -> list[Drawing]:
    """Sends all orders at the same moment, each as a stream of its own. Raises the first FluxError."""

    async def draw(client: AsyncFluxClient, order: Order) -> Drawing:
        start = time.monotonic()
        stream = client.stream(
            order.prompt, num_inference_steps=order.steps, guidance_scale=order.guidance, seed=order.seed
        )
        async for event in stream:
            if isinstance(event, Progress):
                display.step(order, event.step)
            elif isinstance(event, Result):
                drawing = Drawing(order, event.image, time.monotonic() - start, event.info.mean_batch)
        display.done(drawing)
        return drawing

    async with AsyncFluxClient(url, timeout=TIMEOUT_S) as client:
        return list(await asyncio.gather(*(draw(client, order) for order in orders)))


def contact_sheet(drawings: Sequence[Drawing], title: str) -> Image.Image:
    """All pictures in a grid, each with its prompt and how it was drawn."""
    rows = -(-len(drawings) // COLUMNS)
    width = MARGIN + COLUMNS * (CELL + MARGIN)
    top = 3 * MARGIN
    sheet = Image.new("RGB", (width, top + rows * (CELL + CAPTION + MARGIN)), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, "black", ImageFont.load_default(18))
    for n, drawing in enumerate(drawings):
        order = drawing.order
        x = MARGIN + n % COLUMNS * (CELL + MARGIN)
        y = top + n // COLUMNS * (CELL + CAPTION + MARGIN)
        sheet.paste(drawing.image.convert("RGB").resize((CELL, CELL), Image.Resampling.LANCZOS), (x, y))
        prompt = "\n".join(textwrap.wrap(order.prompt, 38)[:2])
        pen.text((x, y + CELL + 4), prompt, "black", ImageFont.load_default(13))
        how = f"{order.steps} steps, guidance {order.guidance:g}, seed {order.seed}, {drawing.seconds:.2f} s"
        pen.text((x, y + CELL + CAPTION - 24), how, "#666666", ImageFont.load_default(12))
    return sheet


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the contact sheet goes (%(default)s)")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    say = console.print
    orders = make_orders()
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        say("Starting Triton …")
        start = time.monotonic()
        with TritonServer(models=("flux",)) as server:
            say(f"Ready after {time.monotonic() - start:.1f} s at {server.urls.grpc}")
            display = Display(console, orders)
            start = time.monotonic()
            with display.live():
                drawings = asyncio.run(draw_all(server.urls.grpc, orders, display))
            seconds = time.monotonic() - start
    except (TritonNotFound, ServerFailed, FluxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    title = f"FLUX on Triton: {len(drawings)} prompts at once, all drawn after {seconds:.2f} s"
    contact_sheet(drawings, title).save(options.output)
    shared = sum(drawing.mean_batch for drawing in drawings) / len(drawings)
    say(f"All {len(drawings)} drawn after {seconds:.2f} s; on average {shared:.1f} shared a denoising step")
    say(f"Contact sheet: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
