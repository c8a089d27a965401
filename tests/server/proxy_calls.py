"""The ways to ask for a picture, each with an upload, for tests of what lies between.

Each gives something once its answer has begun, where that is seen, and at the end its picture.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
from PIL import Image

from tests.server import wire
from tests.server.proxies import Proxied
from tests.unit.client.gateway.running import events

PROMPT = "a large apple on a green background"
STEPS = 40


def upload() -> bytes:
    """A picture of 3 MB."""
    noise = np.random.default_rng(1).integers(0, 256, (1000, 1000, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


UPLOAD = upload()
ENDLESS: dict[str, Any] = {"prompt": PROMPT, "num_inference_steps": 1000, "width": 256, "height": 256}
INPUTS = {"prompt": PROMPT, "image": UPLOAD, "num_inference_steps": STEPS, "seed": 7, "base64": False}


def http_events(through: Proxied) -> Iterator[bytes]:
    """generate_stream with progress."""
    body = {**INPUTS, "image": base64.b64encode(UPLOAD).decode(), "progress": True, "base64": True}
    for event in wire.generate_stream(through.http, body):
        assert "error" not in event, event
        yield base64.b64decode(event["image"]) if event["event"] == "final" else b"progress"


def http_infer(through: Proxied) -> Iterator[bytes]:
    yield wire.http_infer(through.http, INPUTS).files(base64_text=False)[0][0]


def grpc_infer(through: Proxied) -> Iterator[bytes]:
    yield wire.grpc_infer(through.grpc, INPUTS).files(base64_text=False)[0][0]


def grpc_events(through: Proxied) -> Iterator[bytes]:
    """A gRPC stream with progress."""
    with wire.GrpcStream(through.grpc) as stream:
        stream.send("one", {**INPUTS, "progress": True})
        stream.wait_for("one", lambda answer: answer.events or answer.ended)
        yield b"progress"
        yield stream.answer("one").files(base64_text=False)[0][0]


def gateway_events(through: Proxied) -> Iterator[bytes]:
    """An edit of OpenAI's API, as server-sent events."""
    options = {"prompt": PROMPT, "num_inference_steps": f"{STEPS}", "stream": "true", "partial_images": "3"}
    with (
        httpx2.Client(base_url=f"http://{through.gateway}", timeout=wire.ANSWER_S) as client,
        client.stream("POST", "/v1/images/edits", data=options, files={"image": UPLOAD}) as response,
    ):
        assert response.status_code == 200, response.read()
        for event in events(response):
            done = event["event"] == "image_edit.completed"
            yield base64.b64decode(event["b64_json"]) if done else b"partial"


def leave_http_events(through: Proxied, begun: Callable[[], object]) -> None:
    events = wire.generate_stream(through.http, {**ENDLESS, "progress": True})
    next(events)
    begun()
    events.close()  # type: ignore[attr-defined]  # a generator


def leave_grpc_events(through: Proxied, begun: Callable[[], object]) -> None:
    with wire.GrpcStream(through.grpc) as stream:
        stream.send("one", {**ENDLESS, "progress": True})
        begun()


def leave_gateway(through: Proxied, begun: Callable[[], object]) -> None:
    """While nothing comes from the gateway, so that nothing fails but the proxy sees it."""
    connection = wire.connect(through.gateway)
    body = {"prompt": PROMPT, "num_inference_steps": ENDLESS["num_inference_steps"], "size": "256x256"}
    wire.send(connection, "/v1/images/generations", body)
    begun()
    connection.close()


UNARY = (http_infer, grpc_infer)
STREAMS = (http_events, grpc_events, gateway_events)
LEAVE = (leave_http_events, leave_grpc_events, leave_gateway)
"""They leave a picture that takes long, once `begun` has returned."""
