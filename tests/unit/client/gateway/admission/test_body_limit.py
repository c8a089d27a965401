"""The bytes that requests in flight hold are bounded."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import httpx2
import pytest

from fluxclient.gateway.admission.body_limit import SMALL_BYTES
from tests.unit.client.fakes.answers import picture
from tests.unit.client.fakes.command import BOUND_S, draw, wait_until
from tests.unit.client.fakes.grpc_server import WireServer
from tests.unit.client.gateway.running import client, error_of, running

PATH = "/v1/images/edits"
LARGE = picture("green") + bytes(2 * SMALL_BYTES)
ROOM: dict[str, Any] = {"max_image_bytes": 150_000, "max_body_bytes": 10_000, "max_uploads_bytes": 320_000}
"""For two such pictures."""


class Gate:
    """A server that holds what it gets, until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def __call__(self, request: Any, context: Any) -> Any:
        assert self.open.wait(BOUND_S)
        yield from draw(request, context)


def in_chunks(body: bytes) -> Any:
    """So that its length is not announced."""
    return (body[start : start + 10_000] for start in range(0, len(body), 10_000))


@pytest.mark.parametrize("announced", [True, False])
def test_more_pictures_than_there_is_room_for(announced: bool, server: WireServer) -> None:
    server.behaviour = gate = Gate()
    request = httpx2.Request("POST", "http://x", data={"prompt": "a"}, files={"image": ("in.png", LARGE)})
    body = request.read()
    headers = {"content-type": request.headers["content-type"]}

    with running(url=server.url, **ROOM) as url, client(url) as http:
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(httpx2.post(f"{url}{PATH}", content=body, headers=headers, timeout=BOUND_S).status_code)

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        assert wait_until(lambda: len(server.requests) == 2)
        refused = http.post(PATH, content=body if announced else in_chunks(body), headers=headers)
        error = error_of(refused)
        assert (refused.status_code, error["code"], error["type"]) == (429, "overloaded", "rate_limit_error")
        assert refused.headers["retry-after"] == "2"
        assert (
            error["message"].startswith("body: the requests in flight hold ") and "at most 320000" in error["message"]
        )

        small = threading.Thread(target=http.post, args=("/v1/images/generations",), kwargs={"json": {"prompt": "a"}})
        small.start()
        assert wait_until(lambda: len(server.requests) == 3), "what is small finds room"
        gate.open.set()
        for asker in (*askers, small):
            asker.join(BOUND_S)
        assert statuses == [200, 200]
        assert http.post(PATH, content=body, headers=headers).status_code == 200, "their room is free again"


def test_the_room_of_who_leaves_is_free_again(server: WireServer) -> None:
    server.behaviour = draw
    with running(url=server.url, **ROOM) as url, client(url) as http:
        form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + LARGE

        def half() -> Any:
            yield form
            raise ConnectionAbortedError

        for number in range(1, 6):
            with pytest.raises(ConnectionAbortedError):
                http.post(PATH, content=half(), headers={"content-type": "multipart/form-data; boundary=x"})
            left = f'flux_gateway_requests_total{{route="POST {PATH}",status="499"}} {number}.0'
            assert wait_until(partial(lambda left: left in http.get("/metrics").text, left))
        answer = http.post(PATH, data={"prompt": "a"}, files={"image": ("in.png", LARGE)})
        assert answer.status_code == 200
