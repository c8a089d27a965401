"""Programs that draw, tested without a server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fluxclient import (
    AsyncFluxClient,
    Cancelled,
    FluxClient,
    Health,
    InvalidArgument,
    MockRequest,
    MockTransport,
    Overloaded,
    Preview,
    Progress,
    Result,
)
from tests.unit.client.fakes.answers import picture
from tests.unit.client.fakes.faces import Face

README = Path(__file__).parents[3] / "client" / "README.md"
RED = Image.new("RGB", (32, 16), "red")
BLUE = Image.new("RGB", (32, 16), "blue")


def faced(kind: Callable[..., Face], handler: Any, **settings: Any) -> Face:
    return kind("grpc://nowhere.invalid", transport=MockTransport(handler), **settings)


def test_a_picture(kind: Callable[..., Face]) -> None:
    asked: list[MockRequest] = []

    def handler(request: MockRequest) -> Image.Image:
        asked.append(request)
        return RED

    result = faced(kind, handler, model="other").generate("a cat", seed=7, height=64, lora={"paper": 0.5}, timeout=2.5)

    (request,) = asked
    assert (request.prompt, request.model, request.id) == ("a cat", "other", result.request_id)
    assert request.options == {"seed": 7, "height": 64, "lora": "paper:0.5", "deadline_ms": 2500}
    assert (result.prompt, result.seeds, result.image.getpixel((0, 0))) == ("a cat", (7,), (255, 0, 0))
    assert (result.info.model, result.info.width, result.info.height, result.info.steps) == ("other", 32, 16, 1)
    assert result.image.format == "PNG"


def test_a_source_picture_comes_as_its_file(kind: Callable[..., Face]) -> None:
    def handler(request: MockRequest) -> Image.Image:
        assert request.options["image"] == picture()
        return RED

    faced(kind, handler).generate("a cat", image=picture(), timeout=None)


def test_several_prompts_and_images(kind: Callable[..., Face]) -> None:
    pictures = {"one": [RED, BLUE], "two": [BLUE, BLUE]}
    client = faced(kind, lambda request: pictures[request.prompt])
    one, two = client.generate(["one", "two"], num_images_per_prompt=2, seed=3)
    assert [image.getpixel((0, 0)) for image in one.images] == [(255, 0, 0), (0, 0, 255)]
    assert two.seeds == (3, 4)
    many = client.generate_many(["two", "one"], num_images_per_prompt=2)
    assert [answer.prompt for answer in many if isinstance(answer, Result)] == ["two", "one"]


@pytest.mark.parametrize("kind_of_file", ["jpeg", "webp"])
def test_formats(kind: Callable[..., Face], kind_of_file: str) -> None:
    client = faced(kind, lambda request: RED)
    assert client.generate("a cat", output_format=kind_of_file).image.format == kind_of_file.upper()
    raw = client.generate("a cat", output_format="raw", num_images_per_prompt=2)
    assert raw.files == ()
    assert np.array_equal(np.asarray(raw.images[1]), np.asarray(RED))


def test_a_stream(kind: Callable[..., Face]) -> None:
    def handler(request: MockRequest) -> Iterator[Progress | Image.Image]:
        yield Progress(1, 2)
        yield Preview(2, 2, (BLUE,))
        yield RED

    client = faced(kind, handler)
    progress, preview, result = client.events("a cat")
    assert isinstance(progress, Progress) and (progress.step, progress.total_steps) == (1, 2)
    assert isinstance(preview, Preview) and preview.images[0] is not None and preview.images[0].size == (32, 16)
    assert isinstance(result, Result) and result.info.steps == 2
    assert client.generate("a cat").image.size == (32, 16)
    assert len(client.events("a cat", most=1)) == 1


def test_errors_of_a_server_are_tried_again_as_always(
    kind: Callable[..., Face], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluxclient.retries.FIRST_PAUSE_S", 0.01)
    ids: list[str] = []

    def handler(request: MockRequest) -> Image.Image:
        ids.append(request.id)
        if len(ids) == 1:
            raise Overloaded("no room", field="max_in_flight")
        raise InvalidArgument("is 7", field="height")

    with pytest.raises(InvalidArgument, match="is 7"):
        faced(kind, handler).generate("a cat")
    assert len(set(ids)) == 2


def test_a_failing_test_fails(kind: Callable[..., Face]) -> None:
    def handler(request: MockRequest) -> Image.Image:
        raise AssertionError("what a test expects")

    client = faced(kind, handler)
    for ask in (client.generate, client.events, lambda prompt: client.generate_many([prompt])):
        with pytest.raises(AssertionError, match="what a test expects"):
            ask("a cat")


@pytest.mark.parametrize("given", [None, [], [RED], [RED, "red"], iter([Progress(1, 2)])])
def test_what_is_no_answer(kind: Callable[..., Face], given: Any) -> None:
    with pytest.raises(TypeError, match="MockTransport must give"):
        faced(kind, lambda request: given).generate("a cat", num_images_per_prompt=2)


def test_what_else_a_server_is_asked(kind: Callable[..., Face]) -> None:
    client = faced(kind, lambda request: RED)
    assert client.health() == Health(True, True, True)
    statistics = client.statistics()
    assert (statistics.server, statistics.instances, statistics.images) == ("mock", 1, 0)
    client.load({"max_batch": "8"})
    client.unload()


def test_the_loop_does_not_matter() -> None:
    client = AsyncFluxClient(transport=MockTransport(lambda request: RED))
    for _ in range(2):
        assert asyncio.run(client.generate("a cat")).seeds == (0,)


def test_a_transport_of_the_other_kind_is_told() -> None:
    class Waiting(MockTransport):
        async def server_live(self, timeout_s: float) -> bool:
            await asyncio.sleep(0)
            return True

    with (
        FluxClient(transport=Waiting(lambda request: RED)) as client,
        pytest.raises(TypeError, match="AsyncFluxClient"),
    ):
        client.health()


def test_the_example_of_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "Mock" in block]
    exec(compile(block, README.name, "exec"), {})
    assert capsys.readouterr().out == ""


def test_what_no_server_takes_is_refused(kind: Callable[..., Face]) -> None:
    client = faced(kind, lambda request: RED)
    for options, words in (
        ({"num_images_per_prompt": 0}, "must be a number from 1 to 64"),
        ({"output_format": "gif"}, "must be one of png, jpeg, webp, raw"),
    ):
        with pytest.raises(InvalidArgument, match=words) as caught:
            client.generate("a cat", **options)
        assert caught.value.field in options and caught.value.request_id


def test_an_error_of_the_handler_carries_the_id_of_the_request(kind: Callable[..., Face]) -> None:
    seen: list[str] = []

    def handler(request: MockRequest) -> Image.Image:
        seen.append(request.id)
        raise InvalidArgument("is no word", field="prompt")

    with pytest.raises(InvalidArgument, match="is no word") as caught:
        faced(kind, handler).generate("a cat")
    assert (caught.value.field, caught.value.request_id) == ("prompt", seen[0])


def test_closing_the_client_ends_a_stream() -> None:
    def handler(request: MockRequest) -> Iterator[Progress | Image.Image]:
        yield Progress(1, 2)
        yield RED

    client = FluxClient(transport=MockTransport(handler))
    stream = client.stream("a cat")
    next(stream)
    client.close()
    with pytest.raises(Cancelled):
        next(stream)


def test_a_stream_outlives_an_event_loop_of_its_thread() -> None:
    def handler(request: MockRequest) -> Iterator[Progress | Image.Image]:
        yield Progress(1, 2)
        yield RED

    stream = FluxClient(transport=MockTransport(handler)).stream("a cat")

    async def begin() -> object:
        return next(stream)

    assert isinstance(asyncio.run(begin()), Progress)
    assert isinstance(next(stream), Result)
