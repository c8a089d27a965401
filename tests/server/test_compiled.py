"""Compiled blocks in Triton's own Python, whose surroundings are not those of a shell."""

from __future__ import annotations

from pathlib import Path

from tests.server.reference import Drawing, Reference
from tests.server.servers import environment, grpc, started
from tests.server.wire import GrpcStream


def test_pictures_are_the_same(checkpoint: Path, reference: Reference, tmp_path: Path) -> None:
    parameters = {"model": str(checkpoint), "compile": "default", "compile_cache": str(tmp_path), "max_batch": "2"}
    compiled, another_size = Drawing("a fox", 3), Drawing("a fox", 3, width=96)
    with started(environment=environment(**parameters)) as server, GrpcStream(grpc(server)) as stream:
        for n, drawing in enumerate((compiled, another_size, compiled)):
            stream.send(str(n), {**drawing.inputs, "output_format": "raw"})
        for n, drawing in enumerate((compiled, another_size, compiled)):
            reference.holds_answer([drawing], stream.answer(str(n)))
    assert list((tmp_path / "blocks").iterdir()), "kept for the next start"
