"""gRPC: streams for requests, plain calls for the rest, for threads and for an event loop.

It uses tritonclient's generated stubs rather than its `InferenceServerClient`: that one carries a single stream at a
time and leaves a thread behind for each stream that is cancelled, and here each request has a stream of its own, since
that is what can be cancelled alone.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2, service_pb2_grpc

from fluxclient.errors import Cancelled, FluxError
from fluxclient.inputs.request import Request
from fluxclient.result import Outputs
from fluxclient.transport.address import Address
from fluxclient.transport.control_key import control_metadata
from fluxclient.transport.grpc_messages import failure_of, infer_message, read_response
from fluxclient.transport.interface import ModelConfig
from fluxclient.transport.metrics import fetch_metrics
from fluxclient.transport.silence import first_silence_s, heard, silent

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),  # several large pictures in one answer pass gRPC's 4 MB
    # A restarted server is found again soon, not after two minutes, and each new attempt at a request tries to connect.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Notices a peer that vanished without a word. Triton closes connections that ping more often than every 5 minutes.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


class _Call(ABC):
    """The responses of one stream. An error is raised when the stream has ended: Triton 24.10 never lets go of a model
    whose stream was cancelled just after its last response."""

    def __init__(self, stub: Any, model: str, request: Request, target: str) -> None:
        message = infer_message(model, request.with_events())
        self._call = stub.ModelStreamInfer(iter([message]), timeout=request.timeout_s)
        self._request = request
        self._target = target
        self._silence_s = first_silence_s(request, message.ByteSize())
        """How long the next response may take."""

    async def __aiter__(self) -> AsyncGenerator[Outputs, None]:
        failure: FluxError | None = None
        try:
            while (response := await self._next()) is not None:
                self._silence_s = self._request.silence_s
                try:
                    outputs = read_response(response, self._request)
                except FluxError as error:
                    failure = error
                    continue
                if outputs:
                    yield outputs
        except TimeoutError:
            self.cancel()
            raise failure or silent(self._target, self._request, self._silence_s) from None
        except grpc.RpcError as error:
            raise failure or self._translated(error) from error
        if failure is not None:
            raise failure

    def cancel(self) -> None:
        self._call.cancel()

    @abstractmethod
    async def _next(self) -> Any:
        """The next response; None at the end. Raises TimeoutError when it does not come within the silence."""

    def _translated(self, error: Any) -> FluxError:
        return failure_of(error, self._target, request_id=self._request.id, timeout_s=self._request.timeout_s)


class GrpcCall(_Call):
    """For a thread."""

    def __init__(self, stub: Any, model: str, request: Request, target: str) -> None:
        super().__init__(stub, model, request, target)
        self._came: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def _next(self) -> Any:
        if self._thread is None:  # gRPC lets nobody wait for a response for only so long
            self._thread = threading.Thread(target=self._pump, name="fluxclient-grpc", daemon=True)
            self._thread.start()
        try:
            item = self._came.get(timeout=self._silence_s)
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(item, Exception):
            raise item
        return item

    def _pump(self) -> None:
        """The responses, then the error that ended the stream, or None."""
        try:
            for response in self._call:
                self._came.put(response)
        except Exception as error:
            self._came.put(error)
        else:
            self._came.put(None)


class AsyncGrpcCall(_Call):
    """For a task."""

    _cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        super().cancel()

    async def _next(self) -> Any:
        try:
            response = await heard(self._call.read(), self._silence_s)
        except asyncio.CancelledError:
            if self._cancelled:  # gRPC reports its own cancelling of the call in the same way as that of the task
                raise Cancelled("was cancelled", field="client", request_id=self._request.id) from None
            raise
        return None if response is grpc.aio.EOF else response


class _Transport(ABC):
    """A channel, of which gRPC makes a connection when first used."""

    def __init__(self, address: Address, channel: Any) -> None:
        self._target = address.target
        self._channel = channel
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    async def server_live(self, timeout_s: float) -> bool:
        return bool((await self._ask("ServerLive", service_pb2.ServerLiveRequest(), timeout_s)).live)

    async def server_ready(self, timeout_s: float) -> bool:
        return bool((await self._ask("ServerReady", service_pb2.ServerReadyRequest(), timeout_s)).ready)

    async def model_ready(self, model: str, timeout_s: float) -> bool:
        return bool((await self._ask("ModelReady", service_pb2.ModelReadyRequest(name=model), timeout_s)).ready)

    async def server_version(self, timeout_s: float) -> str:
        metadata = await self._ask("ServerMetadata", service_pb2.ServerMetadataRequest(), timeout_s)
        return f"{metadata.name} {metadata.version}"

    async def model_config(self, model: str, timeout_s: float) -> ModelConfig:
        answer = await self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model), timeout_s)
        config: ModelConfig = MessageToDict(answer.config, preserving_proto_field_name=True)
        return config

    async def load(self, model: str, config: ModelConfig | None, timeout_s: float | None, key: str | None) -> None:
        message = service_pb2.RepositoryModelLoadRequest(model_name=model)
        if config is not None:
            message.parameters["config"].string_param = json.dumps(config)
        await self._ask("RepositoryModelLoad", message, timeout_s, key)

    async def unload(self, model: str, timeout_s: float | None, key: str | None) -> None:
        message = service_pb2.RepositoryModelUnloadRequest(model_name=model)
        await self._ask("RepositoryModelUnload", message, timeout_s, key)

    async def _ask(self, method: str, message: Any, timeout_s: float | None, key: str | None = None) -> Any:
        call = getattr(self._stub, method)
        try:
            return await self._answer(partial(call, message, timeout=timeout_s, metadata=control_metadata(key)))
        except grpc.RpcError as error:
            raise failure_of(error, self._target, timeout_s=timeout_s) from error

    @abstractmethod
    async def _answer(self, call: Callable[[], Any]) -> Any:
        """What the call of a method gives."""


class GrpcTransport(_Transport):
    """For threads."""

    def __init__(self, address: Address) -> None:
        super().__init__(address, grpc.insecure_channel(address.target, options=_CHANNEL_OPTIONS))

    def open(self, model: str, request: Request) -> GrpcCall:
        return GrpcCall(self._stub, model, request, self._target)

    async def metrics(self, url: str, timeout_s: float) -> str:
        return fetch_metrics(url, timeout_s)

    async def close(self) -> None:
        self._channel.close()

    async def _answer(self, call: Callable[[], Any]) -> Any:
        return call()


class AsyncGrpcTransport(_Transport):
    """For an event loop: gRPC ties the channel to that which this is made in."""

    def __init__(self, address: Address) -> None:
        super().__init__(address, grpc.aio.insecure_channel(address.target, options=_CHANNEL_OPTIONS))

    def open(self, model: str, request: Request) -> AsyncGrpcCall:
        return AsyncGrpcCall(self._stub, model, request, self._target)

    async def metrics(self, url: str, timeout_s: float) -> str:
        return await asyncio.to_thread(fetch_metrics, url, timeout_s)

    async def close(self) -> None:
        await self._channel.close()

    async def _answer(self, call: Callable[[], Any]) -> Any:
        return await call()
