#!/usr/bin/env bash
# pytriton's DecoupledModelClient takes the response that carries Triton's final flag for a bare mark of the end, and drops
# what is in it. So a model that sends its answer with that flag, which spares a message, answers nothing to it.
# Needs Python 3.10 to 3.12 and PyPI. Fails when that changes.
set -euo pipefail
version=0.7.0
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"
"$home/venv/bin/pip" install -q --disable-pip-version-check "nvidia-pytriton==$version" "tritonclient[grpc]==2.60.0" "numpy<2"
"$home/venv/bin/python" - <<'PYTHON'
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

warnings.simplefilter("ignore")
import grpc
import numpy as np
from pytriton.client import DecoupledModelClient
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A model `x → y` that answers each request once, and says at which response the stream ends."""

    apart = False

    def ServerLive(self, request, context):
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelConfig(self, request, context):
        config = model_config_pb2.ModelConfig(name="m", max_batch_size=1)
        config.input.add(name="x", data_type="TYPE_INT32", dims=[1])
        config.output.add(name="y", data_type="TYPE_INT32", dims=[1])
        config.model_transaction_policy.decoupled = True
        return service_pb2.ModelConfigResponse(config=config)

    def ModelStreamInfer(self, requests, context):
        for request in requests:
            answer = service_pb2.ModelStreamInferResponse()
            answer.infer_response.outputs.add(name="y", datatype="INT32", shape=[1, 1])
            answer.infer_response.raw_output_contents.append(np.int32(7).tobytes())
            answer.infer_response.parameters["triton_final_response"].bool_param = not self.apart
            yield answer
            if self.apart:
                end = service_pb2.ModelStreamInferResponse()
                end.infer_response.parameters["triton_final_response"].bool_param = True
                yield end


server, model = grpc.server(ThreadPoolExecutor(4)), Server()
service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(model, server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
seen = []
for model.apart in (False, True):
    with DecoupledModelClient(f"grpc://127.0.0.1:{port}", "m") as client:
        seen.append([int(response["y"][0]) for response in client.infer_sample(x=np.array([1], np.int32))])
server.stop(None)
print(f"pytriton {version('nvidia-pytriton')}")
print(f"answer 7 in the response with the final flag: {seen[0]}; before an empty response with it: {seen[1]}")
sys.exit(seen != [[], [7]])
PYTHON
