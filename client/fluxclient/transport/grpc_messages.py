"""Requests and answers in the messages of Triton's gRPC protocol, for which tritonclient has no types."""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import serialize_byte_tensor

from fluxclient.errors import ConnectionFailed, DeadlineExceeded, FluxError, error_from
from fluxclient.inputs.options import DATATYPES
from fluxclient.inputs.request import Request
from fluxclient.result import Outputs, readable


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


def read_response(response: Any, request: Request) -> Outputs:
    """The outputs of a response by name; none for one that only marks the end. Raises the error that it carries."""
    if response.error_message:
        raise error_from(response.error_message, request_id=request.id)
    with readable(request):
        result = InferResult(response.infer_response)
        return {output.name: result.as_numpy(output.name) for output in response.infer_response.outputs}


def failure_of(error: Any, target: str, *, request_id: str = "", timeout_s: float | None = None) -> FluxError:
    """What a failed call means; `error` is a grpc.RpcError."""
    status = error.code().name
    translated = error_from(error.details() or "", request_id=request_id, status=status)
    if isinstance(translated, ConnectionFailed):
        translated = ConnectionFailed(f"{target}: {translated.text}", field=translated.field, request_id=request_id)
    elif isinstance(translated, DeadlineExceeded) and translated.field == "timeout":
        translated = DeadlineExceeded(f"no answer within {timeout_s:g} s", field="timeout", request_id=request_id)
    return translated
