"""A server in bfloat16, on any processor: each picture is near the one that diffusers draws in bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.server.reference import Drawing, Reference
from tests.server.servers import environment, grpc, started
from tests.server.wire import GrpcStream, grpc_infer

DRAWINGS = [
    Drawing("a fox", 5, width=96, height=64),
    Drawing("two boats", 3, guidance=0.0, seed=7, width=96, height=64),
    Drawing("a tree", 4, seed=2, width=96, height=64, negative_prompt="snow", true_cfg_scale=3.0),
    Drawing("a house, far away", 6, guidance=9.5, seed=5, width=96, height=64),
]


def test_alone_and_in_company(checkpoint: Path) -> None:
    reference = Reference(checkpoint, dtype=torch.bfloat16)
    settings = environment(model=str(checkpoint), dtype="bfloat16")
    with started(environment=settings) as server, GrpcStream(grpc(server)) as stream:
        reference.holds_answer(DRAWINGS[:1], grpc_infer(grpc(server), DRAWINGS[0].inputs))
        for drawing in DRAWINGS:
            stream.send(drawing.prompt, drawing.inputs)
        answers = [stream.answer(drawing.prompt) for drawing in DRAWINGS]
    for drawing, answer in zip(DRAWINGS, answers, strict=True):
        reference.holds_answer([drawing], answer)
    assert max(answer.infos[0]["mean_batch"] for answer in answers) > 1, "these were to share their steps"
