"""The process of the model dies with requests of fluxclient in flight, of which Triton tells nobody."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fluxclient import ConnectionFailed, FluxError, Result
from tests.server.faces import EACH
from tests.server.servers import Measured, environment, outliving, until
from tools.triton.server import TritonServer
from tools.triton.watching.watchdog import Watchdog

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {"num_inference_steps": 300, "seed": 7, "timeout": 300.0}
"""Long enough to be killed in the middle, and soon over when it is drawn again."""

NOTICED_S = 20.0


def ask(of: Callable[..., Any]) -> tuple[Any, float]:
    """What a call gives or raises, and when."""
    try:
        return of("a small fox", **OPTIONS), time.monotonic()
    except FluxError as error:
        return error, time.monotonic()


def test_nobody_waits_for_a_model_that_has_died(checkpoint: Path) -> None:
    """Whole pictures are drawn by the model that is loaded anew; a stream that was under way tells that it broke."""

    def dies_and_is_loaded_anew(server: TritonServer) -> None:
        # As many tries as it takes to load the model.
        faces = [made(server, retries=100) for made in EACH]
        with Watchdog(server), ThreadPoolExecutor(3 * len(faces)) as pool:
            drawing = [pool.submit(ask, face.generate) for face in faces]
            many = [
                pool.submit(ask, lambda prompt, face=face, **o: face.generate_many([prompt], **o)[0]) for face in faces
            ]
            streaming = [pool.submit(ask, face.events) for face in faces]
            until(lambda: Measured(server).total("flux_jobs_running") == 3 * len(faces), "all on their way")
            (stub,) = [stub for stub in server.stubs() if any("/flux/1/" in argument for argument in stub.arguments)]
            os.kill(stub.pid, signal.SIGKILL)
            died_s = time.monotonic()
            for future in streaming:
                error, at_s = future.result()
                assert isinstance(error, ConnectionFailed), error
                assert "no sign of life for 15 s" in error.text
                assert at_s - died_s < NOTICED_S
            for future in [*drawing, *many]:
                result, _ = future.result()
                assert isinstance(result, Result), result
                assert result.seeds == (7,)

    outliving(dies_and_is_loaded_anew, environment=environment(model=str(checkpoint)))
