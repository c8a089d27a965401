"""Triton's HTTP messages, into and out of those of gRPC in which behaviours think."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import serialize_byte_tensor, triton_to_np_dtype

from fluxclient.inputs.options import DATATYPES


def stream_request(model: str, body: bytes) -> Any:
    """Of `generate_stream`: an object of inputs, and the id."""
    values = json.loads(body)
    request = service_pb2.ModelInferRequest(model_name=model, id=values.pop("id"))
    for name, value in values.items():
        datatype = DATATYPES[name]
        column: npt.NDArray[Any] = np.array([[value]], np.object_ if datatype == "BYTES" else _dtype(datatype))
        request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        content = serialize_byte_tensor(column).item() if datatype == "BYTES" else column.tobytes()
        request.raw_input_contents.append(content)
    return request


def infer_request(model: str, body: bytes, header_length: int) -> Any:
    """Of `infer` with binary tensors: their contents stand behind the JSON in the order of the inputs."""
    header = json.loads(body[:header_length])
    request = service_pb2.ModelInferRequest(model_name=model, id=header["id"])
    for name in ("priority", "timeout"):
        if name in header["parameters"]:
            request.parameters[name].int64_param = header["parameters"][name]
    at = header_length
    for tensor in header["inputs"]:
        size = tensor["parameters"]["binary_data_size"]
        request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        request.raw_input_contents.append(body[at : at + size])
        at += size
    return request


def infer_answer(response: Any) -> tuple[bytes, bytes]:
    """The JSON and the contents behind it; the façade has no events."""
    header, contents = [], []
    for output, content in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name not in ("event", "step", "total_steps"):
            size = {"binary_data_size": len(content)}
            shape = list(output.shape)
            header.append({"name": output.name, "datatype": output.datatype, "shape": shape, "parameters": size})
            contents.append(content)
    answer = {"model_name": response.model_name, "model_version": "1", "outputs": header}
    return json.dumps(answer).encode(), b"".join(contents)


def event_of(response: Any) -> dict[str, Any] | None:
    """The event of `generate_stream`; None for a response that only marks the end."""
    if response.error_message:
        return {"error": response.error_message}
    if not response.infer_response.outputs:
        return None
    result = InferResult(response.infer_response)
    event = {output.name: _json_value(output.name, result) for output in response.infer_response.outputs}
    return {"model_name": "flux", "model_version": "1", **event}


def _json_value(name: str, result: Any) -> Any:
    """A flat list, or a bare value where there is but one."""
    values = result.as_numpy(name).reshape(-1).tolist()
    if name == "image":
        values = [base64.b64encode(file) for file in values]
    texts = [value.decode() if isinstance(value, bytes) else value for value in values]
    return texts[0] if len(texts) == 1 else texts


def _dtype(datatype: str) -> npt.DTypeLike:
    dtype: npt.DTypeLike = triton_to_np_dtype(datatype)
    return dtype
