"""Responses as the model sends them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

INFO: dict[str, Any] = {
    "model": "flux-tiny",
    "width": 32,
    "height": 16,
    "steps": 8,
    "guidance_scale": 3.5,
    "max_sequence_length": 32,
    "lora": "",
    "queue_ms": 1.5,
    "encode_ms": 2.0,
    "denoise_ms": 80.0,
    "decode_ms": 10.0,
    "total_ms": 95.0,
    "mean_batch": 2.5,
}


def picture(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (32, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def response(**outputs: npt.NDArray[Any]) -> Any:
    infer = service_pb2.ModelInferResponse(model_name="flux")
    for name, values in outputs.items():
        datatype = np_to_triton_dtype(values.dtype)
        infer.outputs.add(name=name, datatype=datatype, shape=values.shape)
        infer.raw_output_contents.append(
            serialize_byte_tensor(values).item() if datatype == "BYTES" else values.tobytes()
        )
    return service_pb2.ModelStreamInferResponse(infer_response=infer)


def error(message: str) -> Any:
    return service_pb2.ModelStreamInferResponse(error_message=message)


def end() -> Any:
    """The empty response that only carries the final flag."""
    empty = service_pb2.ModelStreamInferResponse()
    empty.infer_response.parameters["triton_final_response"].bool_param = True
    return empty


def texts(values: Sequence[Sequence[bytes]]) -> npt.NDArray[Any]:
    return np.array([list(row) for row in values], dtype=object)


def final(files: Sequence[Sequence[bytes]], seeds: Sequence[Sequence[int]], **info: Any) -> Any:
    """files and seeds are [N][k]."""
    rows = len(files)
    return response(
        image=texts(files),
        seed=np.array(seeds, dtype=np.int64),
        info=texts([[json.dumps(INFO | info).encode()]] * rows),
        event=texts([[b"final"]] * rows),
        step=np.full((rows, 1), 8, dtype=np.int32),
        total_steps=np.full((rows, 1), 8, dtype=np.int32),
    )


def step(number: int, total: int, event: str = "progress", **more: npt.NDArray[Any]) -> Any:
    return response(
        event=texts([[event.encode()]]),
        step=np.array([[number]], dtype=np.int32),
        total_steps=np.array([[total]], dtype=np.int32),
        **more,
    )
