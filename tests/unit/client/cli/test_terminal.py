"""`fluxclient generate` at a terminal: progress, previews and pictures."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxclient.cli.app import main
from tests.unit.client.fakes.answers import final, picture, step, texts
from tests.unit.client.fakes.command import (
    BOUND_S,
    HEIGHT_MESSAGE,
    draw,
    draw_in_steps,
    inputs_of,
    refuse,
    start,
    wait_until,
)
from tests.unit.client.fakes.grpc_server import WireServer

pytestmark = pytest.mark.usefixtures("here")


class Terminal:
    """Runs the command with a terminal as standard error, or as all three, and keeps what that got."""

    def __init__(self, rows: int = 50, columns: int = 100) -> None:
        self.size = (rows, columns)
        self.shown = ""

    def run(self, *arguments: str, everything: bool = False) -> int:
        ours, theirs = pty.openpty()
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", *self.size, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        streams = {"stdin": theirs, "stdout": theirs} if everything else {}
        process = start(*arguments, stderr=theirs, env=environment, **streams)
        os.close(theirs)
        decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end in the middle of a character
        while True:
            try:
                self.shown += decoder.decode(os.read(ours, 65536))
            except OSError:  # the other end is closed
                break
        os.close(ours)
        process.communicate(timeout=BOUND_S)
        return process.returncode


def test_progress_at_a_terminal(server: WireServer) -> None:
    terminal = Terminal()

    def step_by_step(request: Any, context: Any) -> Iterator[Any]:
        yield step(1, 2)
        assert wait_until(lambda: "step 1 of 2" in terminal.shown and "50 %" in terminal.shown)
        yield from draw(request, context)

    server.behaviour = step_by_step
    assert terminal.run("generate", "a cat") == 0
    assert inputs_of(server.requests[0])["progress"] is True
    assert "\x1b[?25l" in terminal.shown  # the cursor, hidden and shown again
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")


def test_progress_of_several_prompts(server: WireServer, here: Path) -> None:
    terminal = Terminal()

    def second_waits(request: Any, context: Any) -> Iterator[Any]:
        if inputs_of(request)["prompt"] == "two":
            assert wait_until(lambda: "1 of 2 prompts" in terminal.shown)
        yield from draw(request, context)

    server.behaviour = second_waits
    (here / "in.txt").write_text("one\ntwo\n")
    assert terminal.run("generate", "@in.txt") == 0


def test_no_progress_elsewhere_or_when_quiet(server: WireServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.behaviour = draw_in_steps
    terminal = Terminal()
    assert (terminal.run("generate", "a cat", "--quiet"), terminal.shown) == (0, "")
    assert main(["generate", "a cat", "--preview"]) == 0
    assert capsys.readouterr().err == ""
    assert ["preview_interval" in inputs_of(request) for request in server.requests] == [False, False]


def test_errors_at_a_terminal_stay(server: WireServer) -> None:
    server.behaviour = refuse({"a cat": HEIGHT_MESSAGE})
    terminal = Terminal()
    assert terminal.run("generate", "a cat") == 2
    assert "must be a multiple of 16 [request 1]" in terminal.shown


def on_screen(written: str) -> list[str]:
    """The lines that stay on a terminal: of its controls, those that move up and erase are followed."""
    lines = [""]
    for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            lines.append("")
        elif part == "\x1b[1A":
            lines.pop()
        elif part == "\x1b[2K":
            lines[-1] = ""
        elif part[0] not in "\x1b\r":
            lines[-1] += part
    return lines


def test_previews_come_and_go_and_the_picture_stays(server: WireServer, here: Path) -> None:
    def with_previews(request: Any, context: Any) -> Iterator[Any]:
        for number in range(1, 4):
            yield step(number, 4, "preview", image=texts([[picture("blue", size=(8, 8))]]))
        yield final([[picture("red", size=(64, 64))]], [[7]])

    server.behaviour = with_previews
    terminal = Terminal()
    assert terminal.run("generate", "a cat", "--steps", "4", "--preview", everything=True) == 0, terminal.shown
    assert inputs_of(server.requests[0])["preview_interval"] == 1
    blue, red = "0;0;254", "255;0;0"
    assert blue in terminal.shown or "0;0;255" in terminal.shown
    assert red in terminal.shown

    lines = [line for line in on_screen(terminal.shown) if line.strip()]
    assert lines.pop() == "a-cat-7.png"
    assert len(lines) == 20  # 40 cells wide, and cells are twice as high as wide
    assert {*"".join(lines)} == {"▀"}


def test_who_is_done_first_stays_above_the_preview_of_others(server: WireServer, here: Path) -> None:
    terminal = Terminal()

    def first_is_previewed_meanwhile(request: Any, context: Any) -> Iterator[Any]:
        if inputs_of(request)["prompt"] == "one":
            yield step(1, 4, "preview", image=texts([[picture("blue", size=(8, 8))]]))
            assert wait_until(lambda: "two-7.png" in terminal.shown)
        else:
            assert wait_until(lambda: "▀" in terminal.shown)
        yield final([[picture("red", size=(64, 64))]], [[7]])

    server.behaviour = first_is_previewed_meanwhile
    (here / "in.txt").write_text("one\ntwo\n")
    assert terminal.run("generate", "@in.txt", "--preview", everything=True) == 0, terminal.shown
    lines = [line for line in on_screen(terminal.shown) if line.strip()]
    assert [line for line in lines if "▀" not in line] == ["two-7.png", "one-7.png"]
    assert len(lines) == 42


def test_terminal_without_a_size_gets_no_previews(server: WireServer) -> None:
    assert Terminal(0, 0).run("generate", "a cat", "--preview", everything=True) == 0
    assert "preview_interval" not in inputs_of(server.requests[0])
