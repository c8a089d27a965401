"""A Triton for one call of the lab."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtest.failures import Broken, Refused
from loadtest.server.target import Target, parse_target
from tools.triton.errors import ServerFailed, TritonNotFound
from tools.triton.server import TritonServer

QUOTED_LINES = 15


@contextmanager
def own_server(folder: Path, model: str = "flux") -> Iterator[Target]:
    """A Triton on free ports for as long as the context lasts; its log goes to `folder`. Raises Refused."""
    try:
        server = TritonServer(log_file=folder / "triton.log").start()
    except (TritonNotFound, ServerFailed) as error:
        raise Refused(f"--start-server: {error}") from error
    try:
        yield parse_target(
            server.urls.http,
            grpc=server.urls.grpc.removeprefix("grpc://"),
            metrics_url=server.urls.metrics,
            model=model,
            control_key=server.api.control_key,
        )
    except Broken as error:
        if server.poll() is None:
            raise
        raise Broken(f"{error}\nIts log ends with:\n{server.log_tail(QUOTED_LINES)}") from error
    finally:
        server.stop()
