"""A gRPC server in this process that speaks Triton's protocol and does what the test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

Behaviour = Callable[[Any, grpc.ServicerContext], Iterator[Any]]


class WireServer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Each request is answered by `behaviour(request, context)`; what became of it is kept for the test."""

    def __init__(self, port: int = 0) -> None:
        self.behaviour: Behaviour = lambda request, context: iter(())
        self.server_ready = True
        self.model_ready = True
        self.requests: list[Any] = []
        self.cancelled = threading.Event()
        """Some request was cancelled by its client before its stream had ended."""
        self.ended = 0
        """Streams that ran to their end."""
        self.most_at_once = 0
        self.at_once = 0
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(64))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.stop(grace=None).wait()

    def ModelStreamInfer(self, request_iterator: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        ended = threading.Event()

        def over() -> None:
            if not ended.is_set():
                self.cancelled.set()

        if not context.add_callback(over):
            over()
        for request in request_iterator:
            with self._lock:
                self.requests.append(request)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                yield from self.behaviour(request, context)
            finally:
                with self._lock:
                    self.at_once -= 1
        with self._lock:
            self.ended += 1
        ended.set()

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=self.server_ready)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=self.model_ready)
