from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from fluxclient import InvalidArgument
from tests.unit.client.fakes.answers import error, final, picture, step
from tests.unit.client.fakes.grpc_server import WireServer
from tools.demo import CELL, Display, Drawing, contact_sheet, draw_all, main, make_orders
from tools.tiny_flux.prompts import caption, held_out_combinations


@pytest.fixture
def server() -> Iterator[WireServer]:
    server = WireServer()
    yield server
    server.stop()


def test_orders_differ_and_are_of_what_training_did_not_see() -> None:
    orders = make_orders()

    assert len({order.prompt for order in orders}) == len(orders) >= 8
    assert {order.prompt for order in orders} <= {caption(scene) for scene in held_out_combinations()}
    assert len({(order.steps, order.guidance) for order in orders}) == len(orders)
    assert make_orders() == orders


@pytest.mark.parametrize("terminal", [True, False])
def test_all_are_sent_at_once_and_shown(server: WireServer, terminal: bool) -> None:
    orders = make_orders()
    all_here = threading.Barrier(len(orders), timeout=10)

    def wait_for_all(request: Any, context: Any) -> Iterator[Any]:
        all_here.wait()
        yield step(1, 2)
        yield final([[picture("blue")]], [[1]])

    server.behaviour = wait_for_all
    written = io.StringIO()
    display = Display(Console(file=written, force_terminal=terminal, width=120, highlight=False), orders)
    with display.live():
        drawings = asyncio.run(draw_all(server.url, orders, display))

    assert [drawing.order for drawing in drawings] == orders
    assert all(drawing.image.getpixel((0, 0)) == (0, 0, 255) and drawing.seconds > 0 for drawing in drawings)
    assert all(order.prompt in written.getvalue() for order in orders)
    if not terminal:
        assert len(written.getvalue().splitlines()) == len(orders)
        assert "\x1b" not in written.getvalue()


def test_refusal_is_raised(server: WireServer) -> None:
    server.behaviour = lambda request, context: iter([error("FLUX_INVALID_ARGUMENT: seed: is -1 [request 1]")])
    orders = make_orders()
    with pytest.raises(InvalidArgument):
        asyncio.run(draw_all(server.url, orders, Display(Console(file=io.StringIO()), orders)))


def test_contact_sheet_shows_every_picture() -> None:
    colours = ["#%02x0000" % (20 * n) for n in range(1, 10)]
    orders = make_orders()
    sheet = contact_sheet(
        [
            Drawing(order, Image.new("RGB", (128, 128), colour), 1.0, 2.0)
            for order, colour in zip(orders, colours, strict=False)
        ],
        "nine",
    )

    counts = {colour: count for count, colour in sheet.getcolors(sheet.width * sheet.height) or []}
    assert [counts.get((20 * n, 0, 0), 0) >= CELL * CELL for n in range(1, 10)] == [True] * 9


def test_failure_to_start_is_told_without_a_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_SERVER", "/nowhere/tritonserver")

    assert main(["--output", str(tmp_path / "demo.png")]) == 1
    assert "/nowhere/tritonserver is not an executable" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "out").touch()

    assert main(["--output", str(tmp_path / "out" / "demo.png")]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and str(tmp_path / "out") in said.err
    assert "Starting" not in said.out
