"""`fluxclient batch` against a real gRPC server."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fluxclient.cli.app import main
from fluxclient.cli.batch_manifest import Manifest
from tests.unit.client.fakes.answers import INFO, picture
from tests.unit.client.fakes.command import BOUND_S, draw, inputs_of, refuse, start, stay, wait_until
from tests.unit.client.fakes.grpc_server import WireServer

pytestmark = pytest.mark.usefixtures("here")

BROKEN = "FLUX_INTERNAL: step: it broke [request 1]"


def write(*lines: dict[str, Any] | str) -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    Path("in.jsonl").write_text("".join(f"{text}\n" for text in texts))


def run(*arguments: str) -> int:
    return main(["batch", "in.jsonl", "-o", "out", *arguments])


def manifest() -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("out/manifest.jsonl").read_text().splitlines()]


def pictures() -> list[str]:
    return sorted(file.name for file in Path("out").iterdir() if file.name != "manifest.jsonl")


def asked(server: WireServer) -> list[str]:
    return sorted(inputs_of(request)["prompt"] for request in server.requests)


def test_pictures_and_manifest(server: WireServer, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        {"prompt": "drei Äpfel", "seed": 3, "num_inference_steps": 2},
        "",
        {"id": "a/b", "prompt": "an owl", "num_images_per_prompt": 2, "output_format": "jpeg", "timeout": 5},
    )
    assert run() == 0

    by_id = {entry["id"]: entry for entry in manifest()}
    assert all(entry.pop("request_id") for entry in by_id.values())
    assert by_id == {
        1: {
            "id": 1,
            "prompt": "drei Äpfel",
            "options": {"seed": 3, "num_inference_steps": 2},
            "files": ["1.png"],
            "seeds": [3],
            "info": INFO,
        },
        "a/b": {
            "id": "a/b",
            "prompt": "an owl",
            "options": {"num_images_per_prompt": 2, "output_format": "jpeg", "timeout": 5},
            "files": ["a-b_c14cddc0-0.jpg", "a-b_c14cddc0-1.jpg"],
            "seeds": [7, 8],
            "info": INFO,
        },
    }
    assert pictures() == ["1.png", "a-b_c14cddc0-0.jpg", "a-b_c14cddc0-1.jpg"]
    with Image.open("out/a-b_c14cddc0-0.jpg") as image:
        assert image.format == "JPEG"
    assert {inputs_of(request)["deadline_ms"] for request in server.requests} == {120_000, 5000}
    assert capsys.readouterr() == ("2 drawn, 0 there already, 0 failed: out/manifest.jsonl\n", "")


def test_rows_with_a_picture_and_loras(server: WireServer) -> None:
    Path("in.png").write_bytes(picture("green"))
    options = {"image": "in.png", "strength": 0.5, "negative_prompt": "dull", "true_cfg_scale": 2}
    write({"prompt": "one", "lora": {"ink": 0.5, "paper": 1}, **options}, {"prompt": "two", "lora": ["ink"]})
    assert (run(), run()) == (0, 0)

    one, two = sorted(map(inputs_of, server.requests), key=lambda inputs: str(inputs["prompt"]))
    assert {name: one[name] for name in options} == {**options, "image": picture("green")}
    assert (one["lora"], two["lora"]) == ("ink:0.5,paper:1.0", "ink")
    assert manifest()[0]["options"].get("image", "in.png") == "in.png"


def test_done_is_done(server: WireServer, capsys: pytest.CaptureFixture[str]) -> None:
    write({"prompt": "one"}, {"prompt": "two"})
    assert (run(), run()) == (0, 0)
    assert asked(server) == ["one", "two"]
    assert "0 drawn, 2 there already, 0 failed" in capsys.readouterr().out


def test_failed_is_tried_again(server: WireServer, capsys: pytest.CaptureFixture[str]) -> None:
    write({"prompt": "one"}, {"prompt": "two", "id": "second"})
    server.behaviour = refuse({"two": BROKEN})
    assert run() == 1

    told = capsys.readouterr()
    assert told.err == "fluxclient: line 2 (id second): INTERNAL: step: it broke [request 1]\n"
    (failed,) = [entry for entry in manifest() if "error" in entry]
    assert failed == {
        "id": "second",
        "prompt": "two",
        "options": {},
        "error": {"code": "INTERNAL", "field": "step", "text": "it broke", "request_id": "1"},
    }
    server.behaviour = draw
    assert run() == 0
    assert asked(server) == ["one", "two", "two"]
    assert pictures() == ["1.png", "second.png"]


def test_edited_is_drawn_again(server: WireServer) -> None:
    write({"prompt": "one"}, {"prompt": "two"}, {"prompt": "three", "seed": 1})
    run()
    write({"prompt": "one"}, {"prompt": "zwei"}, {"prompt": "three", "seed": 2}, {"prompt": "four"})
    assert run() == 0
    assert asked(server)[:] == sorted(["one", "two", "three", "zwei", "three", "four"])
    assert pictures() == ["1.png", "2.png", "3.png", "4.png"]
    assert run() == 0
    assert len(server.requests) == 6


@pytest.mark.parametrize("torn", ['{"id": 2, "prompt": "tw', '{"id": 2, "prompt": "two", "options": {}}'])
def test_torn_line_at_the_end_of_the_manifest(server: WireServer, torn: str) -> None:
    write({"prompt": "one"})
    run()
    with Path("out/manifest.jsonl").open("a") as file:
        file.write(torn)
    write({"prompt": "one"}, {"prompt": "two"})
    assert run() == 0
    assert [entry["prompt"] for entry in manifest()] == ["one", "two"]
    assert asked(server) == ["one", "two"]


def first_then(server: WireServer, drawn: int) -> None:
    """Draws so many requests, and stays at the others."""
    turn = threading.Lock()
    left = iter(range(drawn))

    def behave(request: Any, context: Any) -> Iterator[Any]:
        with turn:
            is_first = next(left, None) is not None
        yield from draw(request, context) if is_first else stay(request, context)

    server.behaviour = behave


def lines_of_manifest() -> int:
    path = Path("out/manifest.jsonl")
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_stopped_in_the_middle_it_goes_on(server: WireServer, sent: signal.Signals, code: int) -> None:
    write(*({"prompt": str(number)} for number in range(12)))
    first_then(server, 5)
    process = start("batch", "in.jsonl", "-o", "out", "--concurrency", "3")
    assert wait_until(lambda: lines_of_manifest() == 5 and len(server.requests) == 8)
    process.send_signal(sent)

    _, err = process.communicate(timeout=BOUND_S)
    assert process.returncode == code
    assert wait_until(lambda: server.at_once == 0) and server.cancelled.is_set()
    told = "fluxclient: stopped with 5 of 12 drawn; the same command goes on from there\n"
    assert err == (told if sent is signal.SIGINT else "")
    assert len(pictures()) == 5

    server.behaviour = draw
    server.requests.clear()
    assert run() == 0
    assert len(server.requests) == 7
    assert sorted(entry["prompt"] for entry in manifest()) == sorted(str(number) for number in range(12))
    assert pictures() == sorted(f"{number}.png" for number in range(1, 13))


def test_what_a_killed_run_left_is_swept_up() -> None:
    write({"prompt": "one"})
    run()
    Path("out/.fluxclient-123-0.png").write_bytes(b"half a pict")
    run()
    assert pictures() == ["1.png"]


def test_nothing_is_tried_without_a_server(server: WireServer, capsys: pytest.CaptureFixture[str]) -> None:
    write({"prompt": "one"})
    server.stop()
    assert run() == 3
    told = capsys.readouterr().err
    assert "CONNECTION_FAILED" in told and "0 of 1 drawn" in told


@pytest.mark.parametrize(("ready", "model", "word"), [(False, False, "server"), (True, False, "'flux' is not ready")])
def test_nothing_is_tried_unless_ready(
    server: WireServer, capsys: pytest.CaptureFixture[str], ready: bool, model: bool, word: str
) -> None:
    write({"prompt": "one"})
    server.server_ready, server.model_ready = ready, model
    assert run() == 3
    assert word in capsys.readouterr().err
    assert server.requests == []


def test_model_that_goes_away_ends_the_run(server: WireServer) -> None:
    write(*({"prompt": str(number)} for number in range(50)))
    server.behaviour = refuse({"3": "Request for unknown model: 'flux' is not found"})
    assert run("--concurrency", "1") == 3
    assert asked(server) == ["0", "1", "2", "3"]
    assert [entry["prompt"] for entry in manifest() if "error" in entry] == ["3"]


def test_everything_done_needs_no_server(server: WireServer) -> None:
    write({"prompt": "one"})
    run()
    server.stop()
    assert run() == 0


def test_overload_is_waited_out(server: WireServer) -> None:
    write({"prompt": "one"})
    refusals = iter(range(3))

    def behave(request: Any, context: Any) -> Iterator[Any]:
        full = next(refusals, None) is not None
        return refuse({"one": "FLUX_OVERLOADED: max_in_flight: no room [request 1]"} if full else {})(request, context)

    server.behaviour = behave
    assert run() == 0
    assert len(server.requests) == 4


def test_every_bad_line_is_told_before_anything_is_drawn(
    server: WireServer, capsys: pytest.CaptureFixture[str]
) -> None:
    write({"prompt": "one"}, "{", {"prompt": "three", "sede": 1}, {"prompt": "four", "id": 1})
    assert run() == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["fluxclient"] * 3
    assert "in.jsonl, line 2: is not JSON" in lines[0]
    assert "in.jsonl, line 3: 'sede' is an unknown key; must be one of id, prompt, height" in lines[1]
    assert "in.jsonl, line 4: id: 1 is that of line 1 too; must be unique" in lines[2]
    assert server.requests == [] and not Path("out").exists()


def test_pictures_of_others_are_not_overwritten(server: WireServer, capsys: pytest.CaptureFixture[str]) -> None:
    write({"prompt": "one"})
    Path("out").mkdir()
    Path("out/1.png").write_text("not ours")
    assert run() == 2
    assert "1.png" in capsys.readouterr().err
    assert (pictures(), server.requests) == (["1.png"], [])
    assert not Path("out/manifest.jsonl").exists()


def test_file_that_is_no_manifest_stays(capsys: pytest.CaptureFixture[str]) -> None:
    write({"prompt": "one"})
    Path("out").mkdir()
    Path("out/manifest.jsonl").write_text("something else\n")
    assert run() == 2
    assert "line 1, is no line of a manifest" in capsys.readouterr().err
    assert Path("out/manifest.jsonl").read_text() == "something else\n"


def test_one_batch_a_folder(server: WireServer, capsys: pytest.CaptureFixture[str]) -> None:
    write({"prompt": "one"})
    Path("out").mkdir()
    with Manifest(Path("out")):
        assert run() == 2
    assert "another batch" in capsys.readouterr().err
    assert run() == 0


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    write({"prompt": "one"})
    assert run("--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_input_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "in.jsonl cannot be read" in capsys.readouterr().err
