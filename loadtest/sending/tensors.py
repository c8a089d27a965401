"""Orders and answers as the tensors of tritonclient, whose gRPC and HTTP halves are alike in this."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from fluxclient.inputs.options import DATATYPES
from loadtest.sending.answer import Answer, unreadable
from loadtest.traffic.order import Order

_DTYPES: dict[str, Any] = {"BYTES": np.object_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BOOL": bool}


def infer_inputs(library: Any, order: Order, timeout_s: float) -> list[Any]:
    """The inputs of `flux_unary`, for tritonclient.grpc or tritonclient.http."""
    found = []
    for name, value in {**order.inputs(timeout_s), "base64": False}.items():
        datatype = DATATYPES[name]
        tensor = library.InferInput(name, [1, 1], datatype)
        content = value.encode() if isinstance(value, str) else value
        tensor.set_data_from_numpy(np.array([[content]], _DTYPES[datatype]))
        found.append(tensor)
    return found


def answer_of(result: Any) -> Answer:
    """Raises ServerError if outputs are missing or no picture's."""
    try:
        return Answer(
            file=bytes(result.as_numpy("image")[0, 0]),
            seed=int(result.as_numpy("seed")[0, 0]),
            info=json.loads(result.as_numpy("info")[0, 0]),
        )
    except (IndexError, TypeError, ValueError) as error:
        raise unreadable(error) from error
