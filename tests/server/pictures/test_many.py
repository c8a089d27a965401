"""200 requests of all kinds at once, to flux-tiny: every picture shows what its own prompt says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from PIL import Image

from tests.server import wire
from tests.server.answers import Answer, event
from tests.server.reference import Drawing, Reference
from tests.server.servers import grpc, settled
from tools.tiny_flux.prompts import Scene, all_combinations, caption
from tools.tiny_flux.recognise import Recogniser
from tools.triton.server import MODEL_REPOSITORY, TritonServer

REQUESTS = 200
CONNECTIONS = 4
COMPARED = 20


@dataclass(frozen=True)
class Order:
    scene: Scene
    drawing: Drawing
    images: int
    progress: bool
    output_format: str
    priority: int

    @property
    def inputs(self) -> dict[str, Any]:
        return {
            **self.drawing.inputs,
            "num_images_per_prompt": self.images,
            "progress": self.progress,
            "preview_interval": 3,
            "output_format": self.output_format,
            "priority": self.priority,
        }

    @property
    def drawings(self) -> list[Drawing]:
        """One for each image."""
        one = self.drawing
        return [Drawing(one.prompt, one.steps, one.guidance, one.seed + image) for image in range(self.images)]


def make_orders() -> list[Order]:
    chance = random.Random(200)
    return [
        Order(
            scene,
            Drawing(caption(scene), chance.randint(4, 12), chance.uniform(1.0, 5.0), chance.getrandbits(40)),
            images=1 + (chance.random() < 0.2),
            progress=chance.random() < 0.3,
            output_format=chance.choice(("png", "webp", "raw")),
            priority=chance.choice((0, 0, 0, 1, 3, 4)),
        )
        for scene in chance.sample(list(all_combinations()), REQUESTS)
    ]


@pytest.fixture(scope="module")
def tiny_reference() -> Reference:
    return Reference(MODEL_REPOSITORY / "flux" / "1" / "flux-tiny")


async def ask_all(server: TritonServer, orders: list[Order]) -> list[Answer]:
    clients = [tritonclient.grpc.aio.InferenceServerClient(grpc(server)) for _ in range(CONNECTIONS)]

    async def ask(n: int) -> Answer:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            inputs = wire.infer_inputs(tritonclient.grpc, orders[n].inputs)
            yield {"model_name": "flux", "inputs": inputs, "request_id": f"{n}"}

        answer = Answer(f"{n}")
        async for result, error in clients[n % CONNECTIONS].stream_infer(requests()):
            if error is not None:
                answer.error = str(error)
            else:
                assert result.get_response().id == answer.request_id
                answer.events.append(event(result))
        return answer

    try:
        return await asyncio.wait_for(asyncio.gather(*map(ask, range(len(orders)))), wire.ANSWER_S)
    finally:
        for client in clients:
            await client.close()


def test_every_answer_belongs_to_its_own_prompt(tiny: TritonServer, tiny_reference: Reference) -> None:
    orders = make_orders()
    before = settled(tiny)
    answers = asyncio.run(ask_all(tiny, orders))
    assert [answer.error for answer in answers if answer.error] == []

    recognise = Recogniser()
    backgrounds = subjects = images = 0
    for order, answer in zip(orders, answers, strict=True):
        kinds = [event.kind for event in answer.events]
        steps = order.drawing.steps
        assert kinds.count("final") == 1 and kinds[-1] == "final"
        # Two images of a request may join a step apart; each of their steps is told then. Who waits long hears of it.
        told = order.images if order.progress else 0
        at = [event.steps[0] for event in answer.events if event.kind == "progress"]
        assert sorted(set(at) - {0}) == (list(range(1, steps + 1)) if told else [])
        assert at == sorted(at)
        assert min(told, 1) * (steps // 3) <= kinds.count("preview") <= told * (steps // 3)
        assert answer.seeds == [[drawing.seed for drawing in order.drawings]]
        assert answer.infos[0]["steps"] == steps
        (pictures,) = answer.pictures()
        for picture in pictures:
            seen = recognise(Image.fromarray(picture))
            backgrounds += seen.background == order.scene.background
            subjects += seen.subject == order.scene.subject
            images += 1
    assert images == sum(order.images for order in orders)
    assert backgrounds >= 0.95 * images, f"{backgrounds} of {images} backgrounds are right"
    assert subjects >= 0.85 * images, f"{subjects} of {images} subjects are right"

    after = settled(tiny)
    assert after.total("flux_images_total") - before.total("flux_images_total") == images
    stepped = after.total("flux_step_batch_size_sum") - before.total("flux_step_batch_size_sum")
    turns = after.total("flux_step_batch_size_count") - before.total("flux_step_batch_size_count")
    assert stepped / turns > 8, "so many at once are to fill the batches"

    exact = [pair for pair in zip(orders, answers, strict=True) if pair[0].output_format != "webp"]
    for order, answer in random.Random(20).sample(exact, COMPARED):
        (pictures,) = answer.pictures()
        for drawing, picture in zip(order.drawings, pictures, strict=True):
            tiny_reference.holds(drawing, picture, answer.infos[0]["max_sequence_length"])


def test_no_two_neighbours_change_each_other(tiny: TritonServer, tiny_reference: Reference) -> None:
    """The trained model, where a picture depends on all of its prompt: eight that differ in one word each."""
    drawings = [
        Drawing(f"a {size} {thing} on a {colour} background", steps=8, seed=1)
        for size in ("small", "large")
        for thing in ("cat", "red star")
        for colour in ("blue", "white")
    ]
    with wire.GrpcStream(grpc(tiny)) as stream:
        for drawing in drawings:
            stream.send(drawing.prompt, {**drawing.inputs, "output_format": "raw"})
        for drawing in drawings:
            tiny_reference.holds_answer([drawing], stream.answer(drawing.prompt))
