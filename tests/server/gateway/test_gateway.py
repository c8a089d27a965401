"""The gateway in front of a real Triton, called by OpenAI's own client."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from openai.types import (
    ImageEditCompletedEvent,
    ImageEditPartialImageEvent,
    ImageGenCompletedEvent,
    ImageGenPartialImageEvent,
    ImagesResponse,
)
from PIL import Image

from fluxclient import FluxClient
from tests.server.openai_calls import ENDLESS, PATH, TEXT_TOKENS, asked, connected, picture, pixels
from tests.server.reference import Drawing, Reference
from tests.server.servers import until
from tests.server.source_picture import source
from tests.unit.client.gateway.running import client, events, running
from tools.triton.server import TritonServer

EDITS = "/v1/images/edits"
SOURCE = source()


@pytest.fixture(scope="module")
def gateway(triton: TritonServer) -> Iterator[str]:
    with running(url=triton.urls.grpc) as url:
        yield url


@pytest.fixture
def sdk(gateway: str) -> Iterator[openai.OpenAI]:
    """It checks every answer against the types of OpenAI's API, and tries nothing twice."""
    with openai.OpenAI(
        base_url=f"{gateway}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


# ---- OpenAI's client ----


def test_generate(sdk: openai.OpenAI, reference: Reference) -> None:
    drawing = Drawing("a cat", steps=6, seed=41, width=64)
    answer = sdk.images.generate(**asked(drawing), n=2, model="flux", quality="high", user="me")
    assert answer.data is not None and len(answer.data) == 2
    assert (answer.size, answer.output_format, answer.background) == ("64x128", "png", "opaque")
    for number, item in enumerate(answer.data):
        expected = Drawing("a cat", steps=6, seed=41 + number, width=64)
        reference.holds(expected, pixels(item.b64_json), TEXT_TOKENS)
    assert (answer.model_extra or {})["seeds"] == [41, 42]
    assert (answer.model_extra or {})["info"]["steps"] == 6
    assert answer._request_id


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_formats(kind: Any, sdk: openai.OpenAI) -> None:
    sizes = []
    for options in [{}] if kind == "png" else [{"output_compression": 5}, {"output_compression": 95}]:
        answer = sdk.images.generate(prompt="a", output_format=kind, extra_body={"seed": 1, **options})
        (item,) = answer.data or []
        assert (picture(item.b64_json).format or "").lower() == kind == answer.output_format
        assert picture(item.b64_json).size == (128, 128)
        sizes.append(len(item.b64_json or ""))
    assert sizes == sorted(set(sizes))


def test_addresses(sdk: openai.OpenAI, reference: Reference) -> None:
    drawing = Drawing("by address", seed=3)
    (item,) = sdk.images.generate(**asked(drawing), response_format="url").data or []
    assert item.url is not None and item.b64_json is None
    file = httpx2.get(item.url)
    assert file.headers["content-type"] == "image/png"
    reference.holds(drawing, np.asarray(Image.open(io.BytesIO(file.content))), TEXT_TOKENS)


def test_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["flux"]
    assert sdk.models.retrieve("flux").object == "model"


def test_stream(sdk: openai.OpenAI, reference: Reference) -> None:
    drawing = Drawing("comes about", steps=8, seed=4)
    told = list(sdk.images.generate(**asked(drawing), stream=True, partial_images=3, output_format="png"))
    *partial, completed = told
    assert isinstance(completed, ImageGenCompletedEvent)
    reference.holds(drawing, pixels(completed.b64_json), TEXT_TOKENS)
    assert (completed.model_extra or {})["seed"] == 4
    assert len(partial) == 3
    for index, event in enumerate(partial):
        assert isinstance(event, ImageGenPartialImageEvent)
        assert (event.partial_image_index, picture(event.b64_json).format) == (index, "PNG")


def test_progress_of_several_images(gateway: str) -> None:
    body = {"prompt": "a", "n": 2, "stream": True, "partial_images": 1, "progress": True, "num_inference_steps": 5}
    with client(gateway) as http, http.stream("POST", PATH, json=body) as response:
        told = list(events(response))
    kinds = [event["type"].removeprefix("image_generation.") for event in told]
    assert kinds.count("partial_image") == kinds.count("completed") == 2
    steps = [event["step"] for event in told if event["type"].endswith(".progress")]
    assert steps == sorted(set(steps)) and steps[-1] == 5
    assert {event["image_index"] for event in told if event["type"].endswith(".partial_image")} == {0, 1}


def test_async_and_its_stream(gateway: str, reference: Reference) -> None:
    async def scenario() -> None:
        async with connected(gateway, _strict_response_validation=True) as sdk:
            drawing = Drawing("without threads", seed=5)
            (item,) = (await sdk.images.generate(**asked(drawing))).data or []
            reference.holds(drawing, pixels(item.b64_json), TEXT_TOKENS)
            stream = await sdk.images.generate(**asked(drawing), stream=True, partial_images=1)
            *_, completed = [event async for event in stream]
            reference.holds(drawing, pixels(completed.b64_json), TEXT_TOKENS)

    asyncio.run(scenario())


# ---- errors ----

WRONG: dict[str, tuple[dict[str, Any], type[openai.APIStatusError], str, str | None]] = {
    "size": ({"size": "100x128"}, openai.BadRequestError, "invalid_value", "size"),
    "large": ({"size": "4096x4096"}, openai.BadRequestError, "invalid_value", "size"),
    "n": ({"n": 9}, openai.BadRequestError, "invalid_value", "n"),
    "blank": ({"prompt": "  "}, openai.BadRequestError, "invalid_value", "prompt"),
    "long": ({"prompt": "a" * 4097}, openai.BadRequestError, "invalid_value", "prompt"),
    "steps": (
        {"extra_body": {"num_inference_steps": 0}},
        openai.BadRequestError,
        "invalid_value",
        "num_inference_steps",
    ),
    "guidance": ({"extra_body": {"guidance_scale": 1e300}}, openai.BadRequestError, "invalid_value", "guidance_scale"),
    "lora": ({"extra_body": {"lora": "nobody"}}, openai.NotFoundError, "not_found", "lora"),
    "guided": (
        {"extra_body": {"true_cfg_scale": 99, "negative_prompt": ""}},
        openai.BadRequestError,
        "invalid_value",
        "true_cfg_scale",
    ),
    "unknown": ({"extra_body": {"sede": 1}}, openai.BadRequestError, "unknown_parameter", "sede"),
    "model": ({"model": "gpt-image-1"}, openai.NotFoundError, "model_not_found", "model"),
    "late": (
        {"extra_body": {**ENDLESS, "deadline_ms": 300}},
        openai.InternalServerError,
        "deadline_exceeded",
        None,
    ),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_errors(name: str, stream: bool, sdk: openai.OpenAI) -> None:
    arguments, kind, code, param = WRONG[name]
    arguments = {"prompt": "a", "stream": stream, **arguments}
    if stream and name == "late":  # an event, as the stream has begun by then
        with pytest.raises(openai.APIError) as late:
            list(sdk.images.generate(**arguments))
        assert late.value.code == code
        return
    with pytest.raises(kind) as raised:
        sdk.images.generate(**arguments)
    error = raised.value
    assert (error.code, error.param) == (code, param)
    assert error.request_id
    assert set(error.body) == {"message", "type", "param", "code"}  # type: ignore[call-overload]


def test_what_was_too_late_is_not_sent_again(triton: TritonServer) -> None:
    """OpenAI's client retries what is 408 or 5xx, unless it is told not to."""
    with running(url=triton.urls.grpc) as url:
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2) as patient,
            pytest.raises(openai.InternalServerError),
        ):
            patient.images.generate(prompt="a", extra_body={**ENDLESS, "deadline_ms": 200})
        metrics = httpx2.get(f"{url}/metrics").text
    assert f'flux_gateway_requests_total{{route="POST {PATH}",status="504"}} 1.0' in metrics


def test_keys_and_rate(triton: TritonServer, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ann:secret", encoding="utf-8")
    with running(url=triton.urls.grpc, keys=keys, rate="1/hour") as url:
        sdk = openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0)
        with sdk, pytest.raises(openai.AuthenticationError) as unknown:
            sdk.images.generate(prompt="a")
        assert unknown.value.code == "invalid_api_key"
        with openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as sdk:
            assert sdk.images.generate(prompt="a").data
            with pytest.raises(openai.RateLimitError) as limited:
                sdk.images.generate(prompt="a")
        assert limited.value.code == "rate_limit_exceeded"


# ---- image to image ----


def test_edit(sdk: openai.OpenAI, gateway: str, triton: TritonServer) -> None:
    """Pictures are those of fluxclient, which others hold against diffusers."""
    extra: dict[str, Any] = {"seed": 5, "num_inference_steps": 6, "strength": 0.5}
    wanted: dict[str, Any] = {"prompt": "an edited fox", "size": "128x64", "n": 2}
    answer = sdk.images.edit(image=SOURCE, model="flux", input_fidelity="high", extra_body=extra, **wanted)
    assert (answer.size, answer.output_format) == ("128x64", "png")
    with FluxClient(triton.urls.grpc) as direct:
        expected = direct.generate(
            "an edited fox", image=SOURCE, width=128, height=64, num_images_per_prompt=2, **extra
        )
    for item, image in zip(answer.data or [], expected.images, strict=True):
        assert np.abs(pixels(item.b64_json).astype(int) - np.asarray(image)).max() <= 1
    assert (answer.model_extra or {})["info"]["strength"] == 0.5

    again = sdk.images.edit(image=[SOURCE], extra_body=extra, **wanted)
    assert max(distances(again, answer)) <= 1
    url = f"data:image/png;base64,{base64.b64encode(SOURCE).decode()}"
    with client(gateway) as http:
        as_json = http.post(EDITS, json={"images": [{"image_url": url}], **wanted, **extra})
    assert max(distances(ImagesResponse.model_validate(as_json.json()), answer)) <= 1
    other = sdk.images.edit(image=SOURCE, extra_body={**extra, "strength": 0.9}, **wanted)
    assert min(distances(other, answer)) > 1


def distances(one: ImagesResponse, other: ImagesResponse) -> list[int]:
    """The most that a channel of any pixel differs, of each picture: up to 1 if they were drawn in other company."""
    pairs = zip(one.data or [], other.data or [], strict=True)
    return [int(np.abs(pixels(a.b64_json).astype(int) - pixels(b.b64_json)).max()) for a, b in pairs]


def test_edit_as_a_stream(sdk: openai.OpenAI) -> None:
    extra = {"num_inference_steps": 10, "strength": 0.5}
    with sdk.images.edit(image=SOURCE, prompt="a", stream=True, partial_images=2, extra_body=extra) as stream:
        *partial, completed = stream
    assert isinstance(completed, ImageEditCompletedEvent)
    assert len(partial) == 2
    for index, event in enumerate(partial):
        assert isinstance(event, ImageEditPartialImageEvent)
        assert (event.partial_image_index, picture(event.b64_json).format) == (index, "PNG")


def test_progress_of_an_edit_counts_the_steps_that_are_taken(gateway: str) -> None:
    form = {"prompt": "a", "num_inference_steps": "10", "strength": "0.5", "stream": "true", "progress": "true"}
    with client(gateway) as http, http.stream("POST", EDITS, data=form, files={"image": SOURCE}) as response:
        told = list(events(response))
    assert [(event["step"], event["total_steps"]) for event in told[:-1]] == [(step, 5) for step in range(1, 6)]
    assert told[-1]["type"] == "image_edit.completed"


@pytest.mark.parametrize(
    ("arguments", "kind", "code", "param"),
    [
        ({"mask": SOURCE}, openai.BadRequestError, "invalid_value", "mask"),
        ({"image": [SOURCE, SOURCE]}, openai.BadRequestError, "invalid_value", "image"),
        ({"image": b"no picture"}, openai.BadRequestError, "invalid_value", "image"),
        ({"image": SOURCE[:40]}, openai.BadRequestError, "invalid_value", "image"),
        ({"extra_body": {"strength": 2}}, openai.BadRequestError, "invalid_value", "strength"),
        ({"size": "100x128"}, openai.BadRequestError, "invalid_value", "size"),
        ({"image": SOURCE + bytes(21 * 2**20)}, openai.APIStatusError, "body_too_large", None),
    ],
)
def test_edits_that_are_refused(
    arguments: dict[str, Any], kind: type[openai.APIStatusError], code: str, param: str | None, sdk: openai.OpenAI
) -> None:
    with pytest.raises(kind) as caught:
        sdk.images.edit(**{"image": SOURCE, "prompt": "a", **arguments})
    assert (caught.value.code, caught.value.param) == (code, param)


# ---- the API that it replaces ----


def test_the_replaced_routes(gateway: str, reference: Reference) -> None:
    drawing = Drawing("as before", steps=3, seed=6, width=64)
    with client(gateway) as http:
        one = http.post("/generate", json=drawing.inputs).json()
        reference.holds(drawing, pixels(one["image"]), TEXT_TOKENS)
        assert one["parameters"] == drawing.inputs

        options = {name: value for name, value in drawing.inputs.items() if name != "prompt"}
        batch = http.post("/batch-generate", json={"prompts": ["as before", " ", "and more"], **options}).json()
        assert not batch["success"]
        first, blank, last = batch["results"]
        reference.holds(drawing, pixels(first["image"]), TEXT_TOKENS)
        assert blank["error"]["param"] == "prompt"
        reference.holds(Drawing("and more", steps=3, seed=6, width=64), pixels(last["image"]), TEXT_TOKENS)

        url = http.post("/async-generate", json=drawing.inputs).json()["status_url"]
        job = until(lambda: done(http, url), "the end of the job")
        assert (job["status"], job["progress"]) == ("completed", {"step": 3, "total_steps": 3})
        reference.holds(drawing, pixels(job["result"]["image"]), TEXT_TOKENS)


def done(http: httpx2.Client, url: str) -> dict[str, Any] | None:
    state: dict[str, Any] = http.get(url).json()
    return state if state["status"] not in ("queued", "running") else None
