#!/usr/bin/env bash
# nginx before a gRPC stream that stays open: two of its limits for bodies act where one would not look for them.
#
# A stream whose sender may still send is, to nginx, a request whose body has not ended. So client_body_timeout (60 s)
# cuts a stream that waits for its answer, however long grpc_read_timeout is; and client_max_body_size (1 MiB) counts
# all messages of the stream together. A call that has sent all it will is spared by the first.
# Needs Python 3 with PyPI, and nginx on the PATH or apt-get to download Debian's package (which is unpacked, not installed).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check grpcio==1.76.0
nginx=$(PATH="$PATH:/usr/sbin" command -v nginx || true)
if [[ -z $nginx ]]; then
    apt-get -qq download nginx
    dpkg -x nginx_*.deb package
    nginx=$folder/package/usr/sbin/nginx
fi
"$nginx" -v
cat >trial.py <<'PYTHON'
import os
import queue
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc

NGINX = sys.argv[1]
LATE_S = 4


def echo(requests, context):
    for request in requests:
        if request.startswith(b"late"):
            time.sleep(LATE_S)
        yield b"answer"


class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        return grpc.stream_stream_rpc_method_handler(echo)


server = grpc.server(ThreadPoolExecutor(8), [Handler()])
upstream = server.add_insecure_port("127.0.0.1:0")
server.start()


def ask(settings, messages, *, ends):
    """How many messages were answered, and how the stream ended. `ends`: the sender says that it has sent all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = os.getcwd()
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = "".join(f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    with open("nginx.conf", "w") as file:
        file.write(
            f"daemon off; pid nginx.pid; {user} events {{}} http {{ access_log off; {temporary} grpc_read_timeout 60s; "
            f"{settings} server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://127.0.0.1:{upstream}; }} }} }}"
        )
    nginx = subprocess.Popen([NGINX, "-p", f"{folder}/", "-c", "nginx.conf", "-e", "nginx.log"])
    try:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        grpc.channel_ready_future(channel).result(timeout=20)
        sending = queue.Queue()
        call = channel.stream_stream("/a/b")(iter(sending.get, None), timeout=30)
        answered = 0
        try:
            for place, message in enumerate(messages):
                sending.put(message)
                if ends and place == len(messages) - 1:
                    sending.put(None)
                next(call)
                answered += 1
            sending.put(None)
            for _ in call:
                pass
            return answered, "OK"
        except grpc.RpcError as error:
            return answered, error.code().name
        finally:
            sending.put(None)
            channel.close()
    finally:
        nginx.terminate()
        nginx.wait()


def check(title, found, expected):
    print(f"{title}: {found[0]} answered, then {found[1]}")
    if found != expected:
        sys.exit(f"this has changed: was {expected}")


short, kb600 = "client_body_timeout 2s;", b"x" * 600_000
check(f"one message, answered after {LATE_S} s, client_body_timeout 2s, the sender has ended",
      ask(short, [b"late"], ends=True), (1, "OK"))
check("the same, the sender stays, as stream clients of Triton do", ask(short, [b"late"], ends=False), (0, "INTERNAL"))
check("with client_body_timeout 60s", ask("", [b"late"], ends=False), (1, "OK"))
check("one message of 600 kB, limit 1 MiB", ask("", [kb600], ends=False), (1, "OK"))
check("two of them, one after the other's answer", ask("", [kb600, kb600], ends=False), (1, "INTERNAL"))
check("with client_max_body_size 0", ask("client_max_body_size 0;", [kb600, kb600], ends=False), (2, "OK"))
os._exit(0)
PYTHON
venv/bin/python trial.py "$nginx"
