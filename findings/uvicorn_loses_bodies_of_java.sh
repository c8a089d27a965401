#!/usr/bin/env bash
# Java's HttpClient offers HTTP/2 (`Upgrade: h2c`) with each plain request, and sends the body along. uvicorn reads it where
# h11 reads HTTP; with httptools, which it prefers as soon as that is installed, the application gets an empty body.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0

"$folder/venv/bin/python" - <<'PYTHON'
import socket
import sys
import threading
import time

import httptools
import uvicorn

BODY = b'{"prompt": "a"}'
OFFER = (
    b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    b"Upgrade: h2c\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
)


async def echo(scope, receive, send):
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def body_that_arrives(http: str) -> bytes:
    config = uvicorn.Config(echo, port=0, http=http, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        with socket.create_connection(server.servers[0].sockets[0].getsockname()[:2], timeout=10) as connection:
            connection.sendall(OFFER)
            with connection.makefile("rb") as answer:
                headers = {}
                while line := answer.readline().strip().lower():
                    name, _, value = line.partition(b": ")
                    headers[name] = value
                return answer.read(int(headers[b"content-length"]))
    finally:
        server.should_exit = True
        thread.join()


arrived = {http: body_that_arrives(http) for http in ("h11", "httptools", "auto")}
print(f"uvicorn {uvicorn.__version__}, httptools {httptools.__version__}, a body of {len(BODY)} bytes beside an offer of h2c:")
for http, body in arrived.items():
    print(f"  http={http}: {len(body)} bytes reach the application")
expected = {"h11": BODY, "httptools": b"", "auto": b""}
sys.exit(0 if arrived == expected else "this has changed")
PYTHON
