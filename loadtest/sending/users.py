"""The users of FLUX, one task for each protocol; `--protocol` or Locust's `--tags` choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from locust import User, tag, task
from locust.exception import StopUser

from loadtest.sending.dispatcher import Run


class FluxUser(User):
    """Sends what the plan says, one request after another; what it sends and what becomes of it is the run's."""

    run_of_test: ClassVar[Run | None] = None
    """Of this process; None where none could be begun."""

    @tag("grpc-stream")
    @task
    def grpc_stream(self) -> None:
        self._one("grpc-stream")

    @tag("grpc-unary")
    @task
    def grpc_unary(self) -> None:
        self._one("grpc-unary")

    @tag("http-infer")
    @task
    def http_infer(self) -> None:
        self._one("http-infer")

    @tag("http-generate")
    @task
    def http_generate(self) -> None:
        self._one("http-generate")

    @tag("openai")
    @task
    def openai(self) -> None:
        self._one("openai")

    @classmethod
    def choose(cls, protocols: Sequence[str]) -> None:
        """Leaves only the tasks of these protocols."""
        cls.tasks = [_TASKS[protocol] for protocol in protocols]

    def _one(self, protocol: str) -> None:
        run = FluxUser.run_of_test
        if run is None or not run.one(protocol):
            raise StopUser


_TASKS: dict[str, Callable[..., Any]] = {
    "grpc-stream": FluxUser.grpc_stream,
    "grpc-unary": FluxUser.grpc_unary,
    "http-infer": FluxUser.http_infer,
    "http-generate": FluxUser.http_generate,
    "openai": FluxUser.openai,
}
