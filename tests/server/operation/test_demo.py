"""`python -m tools.demo` as a person runs it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from fluxclient import FluxClient
from tools.demo import CELL, COLUMNS, MARGIN, OUTPUT, make_orders
from tools.tiny_flux.recognise import Recogniser
from tools.triton.installation import PROJECT

LONGEST_S = 180


def test_demo_draws_what_its_captions_say_and_stops_the_server(tmp_path: Path) -> None:
    output = tmp_path / "new" / OUTPUT.name
    start = time.monotonic()
    demo = subprocess.run(
        [sys.executable, "-m", "tools.demo", "--output", str(output)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
    )

    assert (demo.returncode, demo.stderr) == (0, ""), demo.stdout
    assert time.monotonic() - start < LONGEST_S
    assert str(output) in demo.stdout
    orders = make_orders()
    assert all(order.prompt in demo.stdout for order in orders)

    sheet = Image.open(output)
    recognise = Recogniser()
    right = 0
    for n, order in enumerate(orders):
        row_height = (sheet.height - 3 * MARGIN) // -(-len(orders) // COLUMNS)
        left, top = MARGIN + n % COLUMNS * (CELL + MARGIN), 3 * MARGIN + n // COLUMNS * row_height
        seen = recognise(sheet.crop((left, top, left + CELL, top + CELL)).resize((128, 128)))
        right += f" {seen.subject} on a {seen.background} " in order.prompt.replace(" an ", " a ")
    assert right >= len(orders) - 2  # flux-tiny is right in 90 of 100

    url = re.search(r"grpc://[\w.:]+", demo.stdout)
    assert url is not None
    with FluxClient(url[0]) as client:
        assert not client.health().live
