"""Compiled blocks in Triton's own Python, whose surroundings are not those of a shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.reference import Drawing, Reference
from tests.server.servers import environment, grpc, started, until
from tests.server.wire import GrpcStream

pytestmark = pytest.mark.slow


def test_pictures_are_the_same_while_another_size_is_compiled_and_after(
    checkpoint: Path, reference: Reference, tmp_path: Path
) -> None:
    parameters = {"model": str(checkpoint), "compile": "default", "compile_cache": str(tmp_path), "max_batch": "2"}
    at_start, in_service = Drawing("a fox", 3), Drawing("a fox", 3, width=96)
    wanted_often = Drawing("a boat", 60, width=96)
    log = tmp_path / "log"
    with started(environment=environment(**parameters), log_file=log) as server, GrpcStream(grpc(server)) as stream:

        def holds(name: str, drawings: list[Drawing]) -> None:
            for n, drawing in enumerate(drawings):
                stream.send(f"{name}-{n}", {**drawing.inputs, "output_format": "raw"})
            for n, drawing in enumerate(drawings):
                reference.holds_answer([drawing], stream.answer(f"{name}-{n}"))

        holds("first", [at_start, in_service, at_start])
        kept = list((tmp_path / "blocks").iterdir())
        assert len(kept) == 2 * 2, "for the next start: both kinds of blocks, for one row and for more"
        holds("often", [wanted_often])
        until(lambda: "96x128 is used often and is being compiled" in log.read_text(), "a size to be wanted")
        holds("meanwhile", [in_service, at_start])
        until(lambda: "96x128 runs compiled from now on" in log.read_text(), "a size to be compiled", timeout_s=280)
        holds("compiled", [in_service, in_service, at_start])
