"""Both clients over both protocols, against real servers."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fluxclient import (
    AsyncFluxClient,
    FluxClient,
    InvalidArgument,
    Preview,
    Progress,
    Result,
)
from tests.unit.client.fakes.answers import INFO, final, picture, response, texts
from tests.unit.client.fakes.behaviours import (
    BOUND_S,
    draw,
    draw_in_steps,
    inputs_of,
    prompts_of,
    say,
    stay,
    unused_port,
    wait_until,
)
from tests.unit.client.fakes.faces import Face
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.fakes.http_server import HttpServer
from tests.unit.client.fakes.model import FakeModel

Server = WireServer | HttpServer

# --- generate


def test_generate(client: Face, either: FakeModel) -> None:
    either.behaviour = draw
    result = client.generate("a cat", seed=7)

    assert (result.prompt, result.seeds, result.image.getpixel((0, 0))) == ("a cat", (7,), (255, 0, 0))
    assert result.files == (picture(),)
    assert result.request_id == either.requests[0].id
    assert either.requests[0].model_name == "flux"


def test_every_option_arrives_as_it_was_given(client: Face, either: FakeModel) -> None:
    either.behaviour = draw
    options = {
        "height": 64,
        "width": 128,
        "num_inference_steps": 4,
        "guidance_scale": 3.5,
        "seed": 2**63 - 1,
        "num_images_per_prompt": 1,
        "output_format": "webp",
        "priority": 1,
        "deadline_ms": 900,
        "lora": "paper:0.5",
        "negative_prompt": "dull colours",
        "true_cfg_scale": 2.5,
        "strength": 0.75,
    }
    prompt = 'ein „Bär“\n\t"\\ 🐻'
    for prompts in (prompt, [prompt, "zwei"]):
        client.generate(prompts, **options)
        sent = inputs_of(either.requests.pop())
        assert sent.pop("prompt")[0] == prompt
        assert {name: values[0] for name, values in sent.items() if name not in ("base64", "progress")} == options


def test_a_picture_arrives_as_its_file(client: Face, either: FakeModel) -> None:
    """Or in base64, where JSON carries it."""
    either.behaviour = draw
    for prompts in ("one", ["one"], ["one", "two"]):
        client.generate(prompts, image=picture())
        sent = inputs_of(either.requests.pop())["image"]
        assert sent in ([picture()] * len(sent), [base64.b64encode(picture())])


def test_many_prompts_share_a_picture(client: Face, either: FakeModel, tmp_path: Path) -> None:
    """It is decoded once: a picture of Pillow's that was not read yet must not be by several threads."""
    either.behaviour = draw
    path = tmp_path / "noise.png"
    Image.effect_noise((64, 64), 50).save(path)
    with Image.open(path) as image:
        answers = client.generate_many(["a cat"] * 20, concurrency=20, image=image)
    assert {type(answer) for answer in answers} == {Result}
    sent = {inputs_of(request)["image"][0] for request in either.requests}
    assert len(sent) == 1

    answers = client.generate_many(["one", "two"], image=tmp_path / "missing.png")
    assert [type(answer) for answer in answers] == [InvalidArgument] * 2


@pytest.mark.parametrize("container", [list, tuple])
def test_several_prompts_go_in_one_request(client: Face, either: FakeModel, container: Callable[..., Any]) -> None:
    either.behaviour = draw
    results = client.generate(container(["one", "two", "three"]), num_images_per_prompt=1, preview_interval=2)

    assert [result.prompt for result in results] == ["one", "two", "three"]
    assert [prompts_of(request) for request in either.requests] == [["one", "two", "three"]]
    sent = set(inputs_of(either.requests[0]))
    assert "preview_interval" not in sent
    assert ("progress" in sent) == isinstance(either, WireServer), "the façade, asked over HTTP, has no such input"


def test_one_prompt_in_a_list_gives_a_list(client: Face, either: FakeModel) -> None:
    either.behaviour = draw
    assert [result.prompt for result in client.generate(["one"])] == ["one"]


@pytest.mark.parametrize("prompts", [["one"], ["one", "two"]])
def test_several_images_of_each_prompt(client: Face, either: FakeModel, prompts: list[str]) -> None:
    rows = len(prompts)
    files = [[picture("red"), picture("blue")]] * rows
    either.behaviour = lambda request, context: iter([final(files, [[5, 6]] * rows)])

    for result in client.generate(prompts):
        assert result.seeds == (5, 6)
        assert result.files == tuple(files[0])


@pytest.mark.parametrize("prompts", [["one"], ["one", "two"]])
def test_raw_pixels(client: Face, either: FakeModel, prompts: list[str]) -> None:
    rows = len(prompts)
    pixels = np.random.default_rng(1).integers(0, 256, (rows, 2, 16, 32, 3), np.uint8)
    either.behaviour = lambda request, context: iter(
        [
            response(
                pixels=pixels,
                seed=np.array([[1, 2]] * rows, np.int64),
                info=texts([[json.dumps(INFO).encode()]] * rows),
                event=texts([[b"final"]] * rows),
            )
        ]
    )
    for row, result in enumerate(client.generate(prompts, output_format="raw")):
        assert result.files == ()
        assert np.array_equal(np.stack([np.asarray(image) for image in result.images]), pixels[row])


def test_timeout_goes_to_the_server(client: Face, either: FakeModel) -> None:
    either.behaviour = draw
    client.generate("a cat", timeout=2.5)
    client.generate("a cat", timeout=None)

    assert inputs_of(either.requests[0])["deadline_ms"] == [2500]
    assert "deadline_ms" not in inputs_of(either.requests[1])


def test_picture_of_many_megabytes(client: Face, either: FakeModel) -> None:
    huge = picture() + bytes(20_000_000)  # data after the end of a PNG is allowed
    either.behaviour = lambda request, context: iter([final([[huge]], [[1]])])

    assert len(client.generate("a cat").files[0]) == len(huge)


def test_finished_request_is_not_cancelled(client: Face, either: FakeModel) -> None:
    either.behaviour = draw_in_steps
    client.generate("a cat")

    assert wait_until(lambda: either.ended == 1)
    assert not either.cancelled.is_set()


# --- stream


def test_stream_tells_of_everything_in_order(client: Face, either: FakeModel) -> None:
    either.behaviour = draw_in_steps
    progress, preview, result = client.events("a cat", preview_interval=2)

    assert isinstance(progress, Progress) and (progress.step, progress.total_steps) == (1, 2)
    assert isinstance(preview, Preview) and preview.images[0] is not None and preview.images[0].size == (4, 4)
    assert isinstance(result, Result) and result.prompt == "a cat"
    sent = inputs_of(either.requests[0])
    assert (sent["progress"], sent["preview_interval"]) == ([True], [2])


def test_leaving_a_stream_cancels_on_the_server(client: Face, either: FakeModel) -> None:
    either.behaviour = stay

    assert len(client.events("a cat", most=1)) == 1
    assert either.cancelled.wait(BOUND_S)


def test_wrong_options_are_told_before_the_first_event(either: FakeModel, protocol: str) -> None:
    url = f"{protocol}://127.0.0.1:{unused_port()}"
    with FluxClient(url) as client, pytest.raises(InvalidArgument):
        client.stream("a cat", height=2**40)
    with pytest.raises(InvalidArgument):
        AsyncFluxClient(url).stream("a cat", height=2**40)


# --- generate_many


def test_generate_many_keeps_the_order_and_the_bound(client: Face, either: FakeModel) -> None:
    three_here = threading.Barrier(3, timeout=BOUND_S)

    def later_first(request: Any, context: Any) -> Iterator[Any]:
        three_here.wait()
        time.sleep(0.03 / (1 + int(prompts_of(request)[0])))
        yield from draw(request, context)

    either.behaviour = later_first
    prompts = [str(number) for number in range(12)]
    answers = client.generate_many(iter(prompts), concurrency=3)

    assert [answer.prompt for answer in answers if isinstance(answer, Result)] == prompts
    assert either.most_at_once == 3


def test_one_failure_does_not_lose_the_others(client: Face, either: FakeModel) -> None:
    def refuse_some(request: Any, context: Any) -> Iterator[Any]:
        if prompts_of(request) == ["bad"]:
            return say("FLUX_INVALID_ARGUMENT: prompt: is bad [request 1]")(request, context)
        return draw(request, context)

    either.behaviour = refuse_some
    answers = client.generate_many(["one", "bad", 7, "two"])

    assert [type(answer) for answer in answers] == [Result, InvalidArgument, InvalidArgument, Result]


def test_generate_many_of_nothing(client: Face) -> None:
    assert client.generate_many([]) == []


@pytest.mark.parametrize("concurrency", [0, -1])
def test_generate_many_needs_some_concurrency(client: Face, concurrency: int) -> None:
    with pytest.raises(InvalidArgument, match="concurrency"):
        client.generate_many(["one"], concurrency=concurrency)


def test_mistake_of_the_program_is_raised_and_cancels_the_rest(client: Face, either: FakeModel) -> None:
    either.behaviour = draw
    with pytest.raises(TypeError, match="'steps'"):
        client.generate_many(["one", "two"], steps=4)
    assert either.requests == []


# --- where a loop runs


def test_sync_client_in_the_thread_of_an_event_loop(either: Server) -> None:
    """As in notebooks."""
    either.behaviour = draw_in_steps

    async def run() -> None:
        with FluxClient(either.url) as client:
            assert client.generate("a cat").seeds == (7,)
            assert len(list(client.stream("a cat"))) == 3
            assert next(client.stream("a cat"), None) is not None
            assert len(client.generate_many(["a cat"] * 3)) == 3

    asyncio.run(run())
    assert wait_until(lambda: either.at_once == 0)


# --- the two are alike


def public(kind: type) -> dict[str, list[inspect.Parameter]]:
    return {
        name: list(inspect.signature(method).parameters.values())
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def test_sync_and_async_have_the_same_methods() -> None:
    assert public(FluxClient) == public(AsyncFluxClient)
    methods = {"generate", "stream", "generate_many", "health", "statistics", "load", "unload", "close"}
    assert methods | {"__init__"} == set(public(FluxClient))
