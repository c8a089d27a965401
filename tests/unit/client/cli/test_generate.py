"""`fluxclient generate` against a real gRPC server."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxclient.cli.app import main
from tests.unit.client.fakes.answers import INFO, picture
from tests.unit.client.fakes.command import (
    BOUND_S,
    HEIGHT_MESSAGE,
    draw,
    inputs_of,
    names,
    refuse,
    start,
    stay,
    type_in,
    wait_until,
)
from tests.unit.client.fakes.grpc_server import WireServer

pytestmark = pytest.mark.usefixtures("here")


# --- what is asked for


def test_options_go_to_the_server(server: WireServer) -> None:
    options = (
        "-n 2 --seed 7 --size 64x128 --steps 3 --guidance 1.5 --format webp --lora ink:0.5 --priority 1 --timeout 9 "
        "--negative-prompt dull --true-cfg-scale 2.5 --image in.png --strength 0.5"
    )
    Path("in.png").write_bytes(picture("green"))
    assert main(["generate", "a cat", *options.split()]) == 0

    (request,) = server.requests
    assert request.model_name == "flux"
    assert inputs_of(request) == {
        "prompt": "a cat",
        "num_images_per_prompt": 2,
        "seed": 7,
        "width": 64,
        "height": 128,
        "num_inference_steps": 3,
        "guidance_scale": 1.5,
        "output_format": "webp",
        "lora": "ink:0.5",
        "negative_prompt": "dull",
        "true_cfg_scale": 2.5,
        "image": picture("green"),
        "strength": 0.5,
        "priority": 1,
        "deadline_ms": 9000,
        "base64": False,
        "progress": True,
    }


def test_what_is_left_out_the_server_decides(server: WireServer) -> None:
    main(["generate", "a cat", "--model", "other"])

    assert server.requests[0].model_name == "other"
    assert inputs_of(server.requests[0]).keys() == {"prompt", "deadline_ms", "base64", "progress"}


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp"])
def test_the_suffix_asks_for_the_format(server: WireServer, here: Path, suffix: str) -> None:
    assert main(["generate", "a cat", "-o", f"cat.{suffix}"]) == 0
    assert inputs_of(server.requests[0])["output_format"] == suffix.replace("jpg", "jpeg")
    with Image.open(here / f"cat.{suffix}") as image:
        assert image.format == suffix.replace("jpg", "jpeg").upper()


def test_other_formats_are_converted(here: Path) -> None:
    assert main(["generate", "a cat", "-o", "cat.bmp"]) == 0
    with Image.open(here / "cat.bmp") as image:
        assert image.format == "BMP"


PROMPTS = "\ufeffa cat\n\n  an owl  \r\ndrei Äpfel\n".encode()


@pytest.mark.parametrize("arguments", [["-"], ["@in.txt"], ["--prompts", "in.txt"]])
def test_prompts_from_a_file(
    server: WireServer, here: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    type_in(PROMPTS, monkeypatch)
    (here / "in.txt").write_bytes(PROMPTS)
    assert main(["generate", *arguments, "--concurrency", "1"]) == 0

    assert [inputs_of(request)["prompt"] for request in server.requests] == ["a cat", "an owl", "drei Äpfel"]


def test_as_many_at_a_time_as_said(server: WireServer, here: Path) -> None:
    together = threading.Barrier(3, timeout=BOUND_S)

    def three_at_a_time(request: Any, context: Any) -> Iterator[Any]:
        together.wait()
        yield from draw(request, context)

    server.behaviour = three_at_a_time
    (here / "in.txt").write_text("".join(f"{number}\n" for number in range(9)))
    assert main(["generate", "@in.txt", "--concurrency", "3"]) == 0
    assert server.most_at_once == 3


# --- what is told


def test_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a cat", "-n", "2", "--seed", "3", "--json", "-o", "out/"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert told.pop("request_id")
    assert told == {
        "prompt": "a cat",
        "files": ["out/a-cat-3.png", "out/a-cat-4.png"],
        "seeds": [3, 4],
        "info": INFO,
    }


def test_json_of_errors(
    server: WireServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(b"one\ntwo\n", monkeypatch)
    server.behaviour = refuse({"two": HEIGHT_MESSAGE})
    assert main(["generate", "-", "--json"]) == 2

    told = capsys.readouterr()
    by_prompt = {line["prompt"]: line for line in map(json.loads, told.out.splitlines())}
    assert by_prompt["one"]["files"] == ["one-7.png"]
    error = {"code": "INVALID_ARGUMENT", "field": "height", "text": "is 7; must be a multiple of 16", "request_id": "1"}
    assert by_prompt["two"] == {"prompt": "two", "error": error}
    expected = "fluxclient: two: INVALID_ARGUMENT: --size: is 7; must be a multiple of 16 [request 1]\n"
    assert told.err == expected


def test_quiet(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a cat", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert names(here) == ["a-cat-7.png"]


# --- exit codes


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (HEIGHT_MESSAGE, 2),
        ("FLUX_NOT_FOUND: lora: there is no 'ink' [request 1]", 2),
        ("FLUX_INTERNAL: step: it broke [request 1]", 1),
        ("FLUX_OUT_OF_MEMORY: step: no room [request 1]", 1),
        ("FLUX_DEADLINE_EXCEEDED: deadline_ms: over [request 1]", 4),
        ("FLUX_CANCELLED: request: given up [request 1]", 1),
        ("Request for unknown model: 'flux' is not found", 3),
    ],
)
def test_exit_code(server: WireServer, capsys: pytest.CaptureFixture[str], message: str, code: int) -> None:
    server.behaviour = refuse({"a cat": message})
    assert main(["generate", "a cat"]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("fluxclient: a cat: ") and told.err.count("\n") == 1


def test_exit_code_of_an_overloaded_server_after_trying_again(server: WireServer) -> None:
    server.behaviour = refuse({"a cat": "FLUX_OVERLOADED: max_in_flight: no room [request 1]"})
    assert main(["generate", "a cat"]) == 5
    assert len(server.requests) == 3


def test_exit_code_of_different_errors(server: WireServer, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(b"one\ntwo\n", monkeypatch)
    server.behaviour = refuse({"one": HEIGHT_MESSAGE, "two": "FLUX_DEADLINE_EXCEEDED: deadline_ms: over [request 1]"})
    assert main(["generate", "-"]) == 1


def test_exit_code_of_a_timeout(server: WireServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.behaviour = stay
    assert main(["generate", "a cat", "--timeout", "0.8"]) == 4
    assert "no answer within 0.8 s" in capsys.readouterr().err
    assert server.cancelled.wait(BOUND_S)


def test_exit_code_of_nobody_at_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"grpc://127.0.0.1:{probe.getsockname()[1]}"
    assert main(["generate", "a cat", "--url", url]) == 3
    told = capsys.readouterr().err
    assert "CONNECTION_FAILED" in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["PROMPT", "--prompts FILE"]),
        (["a cat", "--prompts", "in.txt"], ["PROMPT", "--prompts FILE"]),
        (["a", "red", "cat"], ["red"]),
        (["@missing.txt"], ["PROMPT", "missing.txt", "No such file"]),
        (["--prompts", "missing.txt"], ["--prompts", "missing.txt", "No such file"]),
        (["@blank.txt"], ["blank.txt", "no prompt"]),
        (["@binary.txt"], ["binary.txt", "UTF-8", "line 2"]),
        (["a cat", "--size", "12"], ["--size", "'12'", "WIDTHxHEIGHT"]),
        (["a cat", "-n", "0"], ["-n", "0"]),
        (["a cat", "--steps", "few"], ["--steps", "few"]),
        (["a cat", "--image", "gone.png"], ["--image", "'gone.png'", "cannot be read", "No such file"]),
        (["a cat", "--image", "/dev/null"], ["--image", "'/dev/null'", "no PNG, JPEG or WebP file"]),
        (["a cat", "--strength", "-1"], ["--strength", "-1", "0 or more"]),
        (["a cat", "--true-cfg-scale", "0.5"], ["--true-cfg-scale", "0.5", "1 or more"]),
        (["a cat", "--negative-prompt", "dull"], ["--negative-prompt", "changes nothing", "--true-cfg-scale"]),
        (["a cat", "--format", "gif"], ["--format", "gif", "png", "jpeg", "webp"]),
        (["a cat", "--format", "jpeg", "-o", "cat.png"], ["--format", "jpeg", ".png"]),
        (["a cat", "-o", "cat.docx"], ["-o", ".docx", ".png"]),
        (["a cat", "--priority", "9"], ["--priority", "9", "4"]),
        (["a cat", "--timeout", "0"], ["--timeout", "0"]),
        (["a cat", "--url", "localhost:8001"], ["--url", "localhost:8001", "grpc://"]),
        (["a cat", "--sede", "7"], ["--sede", "--seed"]),
        (["a cat", "--seed", str(2**70)], ["seed", "64 bits"]),
    ],
)
def test_wrong_usage(
    server: WireServer, here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    (here / "blank.txt").write_text("\n \n")
    (here / "binary.txt").write_bytes(b"a cat\n\xff\xfe\n")
    before = names(here)
    assert main(["generate", *arguments]) == 2

    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    assert [word for word in words if word not in told.err] == []
    assert server.requests == [] and names(here) == before


def test_ctrl_c_cancels_on_the_server(server: WireServer, here: Path) -> None:
    server.behaviour = stay
    process = start("generate", "a cat")
    assert wait_until(lambda: len(server.requests) == 1)
    process.send_signal(signal.SIGINT)

    out, err = process.communicate(timeout=BOUND_S)
    assert (process.returncode, out, err) == (130, "", "")
    assert server.cancelled.wait(BOUND_S)
    assert names(here) == []


def test_reader_of_the_output_that_leaves(here: Path) -> None:
    (here / "in.txt").write_text("a cat\n" * 50)
    reading, writing = os.pipe()
    os.close(reading)
    process = start("generate", "@in.txt", stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=BOUND_S)
    assert (process.returncode, err) == (1, "")
