from __future__ import annotations

from tritonclient.utils import deserialize_bytes_tensor

from fluxclient.inputs.request import build_request
from fluxclient.transport.grpc_messages import infer_message


def test_message() -> None:
    request = build_request(("ä", "b"), {"height": 64, "priority": 1}, timeout_s=1.5)
    message = infer_message("flux", request)

    assert (message.model_name, message.id) == ("flux", request.id)
    assert message.parameters["priority"].uint64_param == 1
    assert message.parameters["timeout"].int64_param == 1_500_000
    tensors = dict(zip((tensor.name for tensor in message.inputs), message.raw_input_contents, strict=True))
    assert {tensor.name: (tensor.datatype, list(tensor.shape)) for tensor in message.inputs} == {
        "prompt": ("BYTES", [2, 1]),
        "height": ("INT32", [2, 1]),
        "priority": ("INT32", [2, 1]),
        "deadline_ms": ("INT32", [2, 1]),
        "base64": ("BOOL", [2, 1]),
    }
    assert deserialize_bytes_tensor(tensors["prompt"]).tolist() == ["ä".encode(), b"b"]
    assert tensors["height"] == (64).to_bytes(4, "little") * 2
    assert tensors["base64"] == b"\0\0"


def test_no_native_parameters_unless_needed() -> None:
    message = infer_message("flux", build_request(("a",), {}, timeout_s=None))

    assert not message.parameters
