"""gRPC and Triton's protocol: the only module that knows tritonclient, which has no types.

It uses tritonclient's generated stubs rather than its `InferenceServerClient`: that one carries a single stream at a
time and leaves a thread behind for each stream that is cancelled, and here each request has a stream of its own, since
that is what can be cancelled alone.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

from fluxclient.errors import ConnectionFailed, DeadlineExceeded, FluxError, error_from
from fluxclient.request import DATATYPES, Array, Request

DEFAULT_PORT = 8001
RpcError: type[Exception] = grpc.RpcError
END_OF_STREAM: object = grpc.aio.EOF

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),  # several large pictures in one answer pass gRPC's 4 MB
    ("grpc.max_reconnect_backoff_ms", 2000),  # a restarted server is found again soon, not after two minutes
    # Notices a peer that vanished without a word. Triton closes connections that ping more often than every 5 minutes.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


def target_of(url: str) -> str:
    """host:port of a `grpc://host[:port]` address. Raises ValueError for any other."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https"):
        raise ValueError(f"{url!r}: this version speaks gRPC only; use grpc://host:{DEFAULT_PORT}, Triton's gRPC port")
    if parts.scheme != "grpc" or not parts.hostname or parts.path not in ("", "/") or parts.query or parts.username:
        raise ValueError(f"{url!r} is not an address like grpc://localhost:{DEFAULT_PORT}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or DEFAULT_PORT}"


class Connection:
    """A channel, of which gRPC makes a connection when first used, and the calls that Triton knows."""

    def __init__(self, target: str, *, aio: bool) -> None:
        factory = grpc.aio.insecure_channel if aio else grpc.insecure_channel
        self.channel: Any = factory(target, options=_CHANNEL_OPTIONS)
        self.stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def open_stream(self, model: str, request: Request) -> Any:
        """Sends the request on a stream of its own: gRPC's call object, of the responses."""
        return self.stub.ModelStreamInfer(iter([infer_message(model, request)]), timeout=request.timeout_s)

    def ask_server_live(self, timeout_s: float) -> Any:
        return self.stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=timeout_s)

    def ask_server_ready(self, timeout_s: float) -> Any:
        return self.stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=timeout_s)

    def ask_model_ready(self, model: str, timeout_s: float) -> Any:
        return self.stub.ModelReady(service_pb2.ModelReadyRequest(name=model), timeout=timeout_s)


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


def read_response(response: Any, request: Request) -> dict[str, Array]:
    """The outputs of a response by name; none for one that only marks the end. Raises the error that it carries."""
    if response.error_message:
        raise error_from(response.error_message, request_id=request.id)
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
