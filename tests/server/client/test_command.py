"""The command `fluxclient` as scripts and people run it, against a real Triton."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fluxclient import FluxClient, Result
from tests.server.servers import Measured, until, until_idle
from tools.triton.server import TritonServer

GIVEN_UP = ("flux_dropped_images_total", {"cause": "cancelled"})
ENDLESS = ("--steps", "1000", "--size", "256x256")
ROWS = 24


@pytest.fixture(autouse=True)
def here(triton: TritonServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLUXCLIENT_URL", triton.urls.grpc)
    monkeypatch.setenv("FLUXCLIENT_METRICS_URL", triton.urls.metrics)
    return tmp_path


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fluxclient", *arguments]
    return subprocess.Popen(
        command, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    process = start(*arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def manifest(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_same_picture(file: Path, image: Image.Image) -> None:
    """Up to one level of 255: they were drawn in other company."""
    drawn = np.asarray(Result.from_file(file).image, np.int16)
    assert np.abs(drawn - np.asarray(image, np.int16)).max() <= 1


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_generate(triton: TritonServer, here: Path, transport: str) -> None:
    url = getattr(triton.urls, transport)
    code, out, err = run("generate", "a cat", "-n", "2", "--seed", "7", "--steps", "3", "--json", "--url", url)
    assert (code, err) == (0, "")

    line = json.loads(out)
    assert line["files"] == ["a-cat-7.png", "a-cat-8.png"]
    assert (line["seeds"], line["info"]["steps"], line["prompt"]) == ([7, 8], 3, "a cat")
    with FluxClient(triton.urls.grpc) as client:
        expected = client.generate("a cat", num_images_per_prompt=2, seed=7, num_inference_steps=3)
    for file, image in zip(line["files"], expected.images, strict=True):
        assert_same_picture(here / file, image)


def test_image_to_image(triton: TritonServer, here: Path) -> None:
    """What one run has drawn, the next begins with."""
    first = ("generate", "a cat", "--seed", "7", "--steps", "2", "-o", "cat.png")
    then = ("generate", "a dog", "--image", "cat.png", "--strength", "0.5", "--seed", "7", "--steps", "4")
    guided = ("--negative-prompt", "a cat", "--true-cfg-scale", "2", "-o", "dog.png", "--json")
    assert run(*first) == (0, "cat.png\n", "")
    code, out, err = run(*then, *guided)
    assert (code, err) == (0, "")
    info = json.loads(out)["info"]
    assert (info["strength"], info["true_cfg_scale"], info["steps"]) == (0.5, 2.0, 4)
    options: dict[str, Any] = {"seed": 7, "num_inference_steps": 4, "strength": 0.5, "true_cfg_scale": 2}
    with FluxClient(triton.urls.grpc) as client:
        expected = client.generate("a dog", image="cat.png", negative_prompt="a cat", **options)
    assert_same_picture(here / "dog.png", expected.image)


def test_exit_codes() -> None:
    code, _, err = run("generate", "a cat", "--size", "100x128")
    assert code == 2
    assert err.startswith("fluxclient: a cat: INVALID_ARGUMENT: --size: ") and err.count("\n") == 1
    code, _, err = run("generate", "a cat", "--lora", "nobody")
    assert (code, "NOT_FOUND: --lora: " in err) == (2, True)
    code, _, err = run("generate", "a cat", "--model", "fluks")
    assert (code, "NOT_FOUND" in err) == (3, True)
    code, _, err = run("generate", "a cat", *ENDLESS, "--timeout", "0.5")
    assert (code, "DEADLINE_EXCEEDED" in err) == (4, True)


def test_ctrl_c_frees_the_device(triton: TritonServer, here: Path) -> None:
    before = until_idle(triton)
    process = start("generate", "nobody waits for it", "-n", "2", *ENDLESS)
    until(lambda: Measured(triton).total("flux_jobs_running") >= 2, "pictures on their way")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out, err) == (130, "", "")
    until(lambda: Measured(triton).total(*GIVEN_UP) == before.total(*GIVEN_UP) + 2, "pictures given up")
    assert until_idle(triton).total("flux_images_total") == before.total("flux_images_total")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_batch_goes_on_where_it_was_stopped(triton: TritonServer, here: Path, sent: signal.Signals) -> None:
    rows = [{"prompt": f"picture {n}", "seed": n, "num_inference_steps": 2 + 20 * (n % 3)} for n in range(ROWS)]
    (here / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    path = here / "out" / "manifest.jsonl"

    process = start("batch", "in.jsonl", "-o", "out", "--concurrency", "6")
    until(lambda: len(manifest(path)) >= 8, "a part of the batch")
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == (130 if sent is signal.SIGINT else -signal.SIGKILL)
    drawn_before = len(manifest(path))
    assert 8 <= drawn_before < ROWS

    code, out, err = run("batch", "in.jsonl", "-o", "out")
    assert (code, err) == (0, "")
    assert f"{ROWS - drawn_before} drawn, {drawn_before} there already, 0 failed" in out
    entries = manifest(path)
    assert sorted(entry["id"] for entry in entries) == list(range(1, ROWS + 1))
    assert sorted(os.listdir(here / "out")) == sorted(["manifest.jsonl", *(f"{n}.png" for n in range(1, ROWS + 1))])
    with FluxClient(triton.urls.grpc) as client:
        for entry in (entries[0], entries[-1]):
            expected = client.generate(entry["prompt"], **entry["options"])
            assert (entry["seeds"], entry["info"]["steps"]) == (list(expected.seeds), expected.info.steps)
            assert_same_picture(here / "out" / entry["files"][0], expected.image)


def test_batch_tells_what_the_server_refuses(here: Path) -> None:
    (here / "in.jsonl").write_text('{"prompt": "fine"}\n{"prompt": "not", "height": 100}\n')
    code, out, err = run("batch", "in.jsonl", "-o", "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "line 2" in err and "INVALID_ARGUMENT: height" in err
    assert "1 drawn, 0 there already, 1 failed" in out


def test_status(triton: TritonServer) -> None:
    before = until_idle(triton)
    with FluxClient(triton.urls.grpc) as client:
        client.generate("a cat")
    until_idle(triton)
    code, out, err = run("status", "--json", "--interval", "0.2")
    assert (code, err) == (0, "")
    values = json.loads(out)
    assert values["ready"] and values["model_ready"]
    assert values["statistics"]["server"].startswith("triton 2.")
    assert values["statistics"]["instances"] == 1
    assert values["statistics"]["images"] >= before.total("flux_images_total") + 1
    assert (values["statistics"]["waiting"], values["statistics"]["running"]) == (0, 0)
    assert values["interval"]["pictures_per_s"] == 0


def test_status_while_it_draws(triton: TritonServer) -> None:
    process = start("generate", "a long one", "-n", "4", *ENDLESS)
    try:
        until(lambda: Measured(triton).total("flux_jobs_running") >= 4, "pictures on their way")
        code, out, _ = run("status", "--json", "--interval", "2")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    values = json.loads(out)
    assert code == 0
    assert values["statistics"]["running"] == 4
    assert values["interval"]["steps_per_s"] > 0
    assert values["interval"]["mean_batch"] == pytest.approx(4.0)
    until_idle(triton)


def test_status_of_a_model_that_is_not_there() -> None:
    code, out, _ = run("status", "--model", "fluks", "--interval", "0.1")
    assert code == 3
    assert "fluks: not ready" in out
