"""gRPC and Triton's protocol on it: the only module that knows tritonclient's gRPC part, which has no types.

It uses tritonclient's generated stubs rather than its `InferenceServerClient`: that one carries a single stream at a
time and leaves a thread behind for each stream that is cancelled, and here each request has a stream of its own, since
that is what can be cancelled alone.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from fluxclient.errors import ConnectionFailed, DeadlineExceeded, FluxError, error_from
from fluxclient.inputs.request import DATATYPES, Request
from fluxclient.result import readable
from fluxclient.transport.address import Address
from fluxclient.transport.control_key import control_metadata
from fluxclient.transport.interface import ModelConfig, Outputs
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


class _GrpcCall:
    """The responses of one stream. An error is raised when the stream has ended: Triton 24.10 never lets go of a model
    whose stream was cancelled just after its last response."""

    def __init__(self, stub: Any, model: str, request: Request, target: str) -> None:
        message = infer_message(model, request.with_events())
        self._call = stub.ModelStreamInfer(iter([message]), timeout=request.timeout_s)
        self._request = request
        self._target = target
        self._silence_s = first_silence_s(request, message.ByteSize())
        """How long the next response may take."""
        self._error: FluxError | None = None

    def cancel(self) -> None:
        self._call.cancel()

    def _read(self, response: Any) -> Outputs:
        """The outputs by name; none where the response is an error, or only marks the end."""
        self._silence_s = self._request.silence_s
        try:
            return read_response(response, self._request)
        except FluxError as error:
            self._error = error
            return {}

    def _silent(self) -> FluxError:
        return self._error or silent(self._target, self._request, self._silence_s)

    def _failure(self, error: Any) -> FluxError:
        if self._error is not None:
            return self._error
        return failure(error, self._target, request_id=self._request.id, timeout_s=self._request.timeout_s)


class GrpcCall(_GrpcCall):
    def __iter__(self) -> Iterator[Outputs]:
        came: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # gRPC lets nobody wait for a response for only so long.
        threading.Thread(target=self._pump, args=(came,), name="fluxclient-grpc", daemon=True).start()
        while True:
            try:
                item = came.get(timeout=self._silence_s)
            except queue.Empty:
                self.cancel()
                raise self._silent() from None
            if item is None:
                break
            if isinstance(item, grpc.RpcError):
                raise self._failure(item) from item
            if isinstance(item, Exception):
                raise item
            if outputs := self._read(item):
                yield outputs
        if self._error is not None:
            raise self._error

    def _pump(self, came: queue.SimpleQueue[Any]) -> None:
        """The responses, then the error that ended the stream, or None."""
        try:
            for response in self._call:
                came.put(response)
        except Exception as error:
            came.put(error)
        else:
            came.put(None)


class AsyncGrpcCall(_GrpcCall):
    async def __aiter__(self) -> AsyncGenerator[Outputs, None]:
        try:
            while (response := await heard(self._call.read(), self._silence_s)) is not grpc.aio.EOF:
                if outputs := self._read(response):
                    yield outputs
        except asyncio.TimeoutError:  # another class than TimeoutError in Python 3.10
            raise self._silent() from None
        except grpc.RpcError as error:
            raise self._failure(error) from error
        if self._error is not None:
            raise self._error


class GrpcTransport:
    """A channel, of which gRPC makes a connection when first used."""

    def __init__(self, address: Address) -> None:
        self._target = address.target
        self._channel = grpc.insecure_channel(self._target, options=_CHANNEL_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def open(self, model: str, request: Request) -> GrpcCall:
        return GrpcCall(self._stub, model, request, self._target)

    def server_live(self, timeout_s: float) -> bool:
        return bool(self._ask("ServerLive", service_pb2.ServerLiveRequest(), timeout_s).live)

    def server_ready(self, timeout_s: float) -> bool:
        return bool(self._ask("ServerReady", service_pb2.ServerReadyRequest(), timeout_s).ready)

    def model_ready(self, model: str, timeout_s: float) -> bool:
        return bool(self._ask("ModelReady", service_pb2.ModelReadyRequest(name=model), timeout_s).ready)

    def server_version(self, timeout_s: float) -> str:
        return version_of(self._ask("ServerMetadata", service_pb2.ServerMetadataRequest(), timeout_s))

    def model_config(self, model: str, timeout_s: float) -> ModelConfig:
        return config_of(self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model), timeout_s))

    def load(self, model: str, config: ModelConfig | None, timeout_s: float | None, key: str | None) -> None:
        self._ask("RepositoryModelLoad", load_message(model, config), timeout_s, key)

    def unload(self, model: str, timeout_s: float | None, key: str | None) -> None:
        self._ask("RepositoryModelUnload", unload_message(model), timeout_s, key)

    def close(self) -> None:
        self._channel.close()

    def _ask(self, method: str, message: Any, timeout_s: float | None, key: str | None = None) -> Any:
        try:
            return getattr(self._stub, method)(message, timeout=timeout_s, metadata=control_metadata(key))
        except grpc.RpcError as error:
            raise failure(error, self._target, timeout_s=timeout_s) from error


class AsyncGrpcTransport:
    """As GrpcTransport; gRPC ties the channel to the event loop that this is made in."""

    def __init__(self, address: Address) -> None:
        self._target = address.target
        self._channel = grpc.aio.insecure_channel(self._target, options=_CHANNEL_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def open(self, model: str, request: Request) -> AsyncGrpcCall:
        return AsyncGrpcCall(self._stub, model, request, self._target)

    async def server_live(self, timeout_s: float) -> bool:
        return bool((await self._ask("ServerLive", service_pb2.ServerLiveRequest(), timeout_s)).live)

    async def server_ready(self, timeout_s: float) -> bool:
        return bool((await self._ask("ServerReady", service_pb2.ServerReadyRequest(), timeout_s)).ready)

    async def model_ready(self, model: str, timeout_s: float) -> bool:
        return bool((await self._ask("ModelReady", service_pb2.ModelReadyRequest(name=model), timeout_s)).ready)

    async def server_version(self, timeout_s: float) -> str:
        return version_of(await self._ask("ServerMetadata", service_pb2.ServerMetadataRequest(), timeout_s))

    async def model_config(self, model: str, timeout_s: float) -> ModelConfig:
        return config_of(await self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model), timeout_s))

    async def load(self, model: str, config: ModelConfig | None, timeout_s: float | None, key: str | None) -> None:
        await self._ask("RepositoryModelLoad", load_message(model, config), timeout_s, key)

    async def unload(self, model: str, timeout_s: float | None, key: str | None) -> None:
        await self._ask("RepositoryModelUnload", unload_message(model), timeout_s, key)

    async def close(self) -> None:
        await self._channel.close()

    async def _ask(self, method: str, message: Any, timeout_s: float | None, key: str | None = None) -> Any:
        try:
            return await getattr(self._stub, method)(message, timeout=timeout_s, metadata=control_metadata(key))
        except grpc.RpcError as error:
            raise failure(error, self._target, timeout_s=timeout_s) from error


def infer_message(model: str, request: Request) -> Any:
    """The ModelInferRequest of a request.

    Priority and deadline go along as Triton's own parameters too, so that its queue keeps to them before the model sees
    the request.
    """
    message = service_pb2.ModelInferRequest(model_name=model, id=request.id)
    if request.priority > 0:
        message.parameters["priority"].uint64_param = request.priority
    if request.deadline_ms > 0:
        message.parameters["timeout"].int64_param = request.deadline_ms * 1000  # µs
    for name, values in request.inputs.items():
        message.inputs.add(name=name, datatype=DATATYPES[name], shape=values.shape)
        content = serialize_byte_tensor(values).item() if DATATYPES[name] == "BYTES" else values.tobytes()
        message.raw_input_contents.append(content)
    return message


def load_message(model: str, config: ModelConfig | None) -> Any:
    message = service_pb2.RepositoryModelLoadRequest(model_name=model)
    if config is not None:
        message.parameters["config"].string_param = json.dumps(config)
    return message


def unload_message(model: str) -> Any:
    return service_pb2.RepositoryModelUnloadRequest(model_name=model)


def config_of(response: Any) -> ModelConfig:
    config: ModelConfig = MessageToDict(response.config, preserving_proto_field_name=True)
    return config


def version_of(response: Any) -> str:
    return f"{response.name} {response.version}"


def read_response(response: Any, request: Request) -> Outputs:
    """The outputs of a response by name; none for one that only marks the end. Raises the error that it carries."""
    if response.error_message:
        raise error_from(response.error_message, request_id=request.id)
    with readable(request):
        result = InferResult(response.infer_response)
        return {output.name: result.as_numpy(output.name) for output in response.infer_response.outputs}


def failure(error: Any, target: str, *, request_id: str = "", timeout_s: float | None = None) -> FluxError:
    """What a failed call means; `error` is a grpc.RpcError."""
    status = error.code().name
    translated = error_from(error.details() or "", request_id=request_id, status=status)
    if isinstance(translated, ConnectionFailed):
        translated = ConnectionFailed(f"{target}: {translated.text}", field=translated.field, request_id=request_id)
    elif isinstance(translated, DeadlineExceeded) and translated.field == "timeout":
        translated = DeadlineExceeded(f"no answer within {timeout_s:g} s", field="timeout", request_id=request_id)
    return translated
