"""A gRPC server in this process that speaks Triton's protocol and does what the test tells it to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from tests.unit.client.fakes.model import Behaviour, FakeModel

__all__ = ["Behaviour", "WireServer"]


class WireServer(FakeModel, service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, port: int = 0) -> None:
        super().__init__()
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
            yield from self.answer(request, context)
        self.count_ended()
        ended.set()

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=self.server_ready)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=self.model_ready)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._refuse(context, grpc.StatusCode.NOT_FOUND)
        return service_pb2.ModelConfigResponse(config=ParseDict(self.config, model_config_pb2.ModelConfig()))

    def RepositoryModelLoad(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._note_key(context)
        self._refuse(context, grpc.StatusCode.INTERNAL)
        config = request.parameters["config"].string_param if "config" in request.parameters else None
        self.loads.append((request.model_name, config))
        return service_pb2.RepositoryModelLoadResponse()

    def RepositoryModelUnload(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._note_key(context)
        self._refuse(context, grpc.StatusCode.INTERNAL)
        self.unloads.append(request.model_name)
        return service_pb2.RepositoryModelUnloadResponse()

    def _note_key(self, context: grpc.ServicerContext) -> None:
        metadata: dict[str, str] = dict(context.invocation_metadata())
        self.control_keys.append(metadata.get("triton-grpc-protocol-triton-control"))

    def _refuse(self, context: grpc.ServicerContext, status: grpc.StatusCode) -> None:
        if self.refusal:
            context.abort(status, self.refusal)
