"""A small decoupled model that echoes, for tests of what is around the model."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tools.triton.server import TritonServer

CONFIG = """
backend: "python"
max_batch_size: 8
model_transaction_policy { decoupled: true }
input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "echo" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { count: 2 kind: KIND_AUTO } ]
parameters [ { key: "greeting" value: { string_value: "hello" } } ]
"""

MODEL = """
import json, os
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.greeting = os.environ.get("FLUX_GREETING") or parameters["greeting"]["string_value"]
        if self.greeting == "none":
            raise ValueError("greeting: none is not allowed")

    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
            echo = np.array([[self.greeting.encode() + b" " + row] for row in text.ravel()], dtype=object)
            sender = request.get_response_sender()
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("echo", echo)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def make_repository(folder: Path) -> Path:
    """A model repository with the model `echo`: two instances, a parameter `greeting` that FLUX_GREETING overrides."""
    (folder / "echo" / "1").mkdir(parents=True)
    (folder / "echo" / "config.pbtxt").write_text(CONFIG)
    (folder / "echo" / "1" / "model.py").write_text(MODEL)
    return folder


def ask(server: TritonServer, text: str) -> str:
    """The model's echo. Raises urllib's HTTPError for an error."""
    body = json.dumps({"text": text}).encode()
    with urllib.request.urlopen(f"{server.urls.http}/v2/models/echo/generate", body, timeout=30) as response:
        answer: str = json.loads(response.read())["echo"]
    return answer


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether it holds within that time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
