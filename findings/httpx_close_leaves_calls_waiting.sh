#!/usr/bin/env bash
# httpx: closing a sync client, or a response, from another thread does not end a call that waits for the server.
#
# Both close the socket, which does not wake who reads from it: the call ends when its own read timeout does, as
# "Bad file descriptor". So a program that must end its calls (a stream that is given up, a client that is closed) needs
# the asyncio client. The same holds for httpx2, which goes on where httpx 0.28 stopped.
# Needs Python 3 with PyPI, on Linux.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check httpx==0.28.1 httpx2==2.14.0
cat >trial.py <<'PYTHON'
import importlib
import socket
import sys
import threading
import time

READ_TIMEOUT_S = 3.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def trial(library, answers):
    """For how long a call waits after it was closed, and what it ends with. The server says nothing, or nothing more."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        connection, _ = listener.accept()
        connection.recv(65536)
        if answers:
            connection.sendall(HEAD)
        time.sleep(2 * READ_TIMEOUT_S)
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    client = library.Client(timeout=READ_TIMEOUT_S)
    responses, ends = [], []

    def call():
        try:
            with client.stream("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/") as response:
                responses.append(response)
                response.read()
        except Exception as error:
            ends.append(repr(error))

    caller = threading.Thread(target=call)
    caller.start()
    time.sleep(0.5)
    begin = time.monotonic()
    for response in responses:
        response.close()
    client.close()
    caller.join()
    return time.monotonic() - begin, ends[0]


changed = False
for name in ("httpx", "httpx2"):
    library = importlib.import_module(name)
    for answers in (False, True):
        waited_s, end = trial(library, answers)
        place = "in the midst of an answer" if answers else "before the answer"
        print(f"{name} {library.__version__}, {place}: {waited_s:.1f} s after it was closed, {end}")
        changed |= waited_s < 1.0
if changed:
    sys.exit("this has changed: each waited on for its read timeout")
PYTHON
venv/bin/python trial.py
