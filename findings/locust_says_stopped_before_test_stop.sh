#!/usr/bin/env bash
# Locust with workers: its master's state is "stopped" before it fires test_stop, up to a second before.
#
# The web page shows that state and starts the next test in it. So test_start of one test can come before test_stop of
# the one before, and a listener that ends what is "the" test ends the wrong one. Without workers it is not so.
# Needs Python 3.11 with PyPI, on Linux.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check locust==2.47.0
venv/bin/locust --version
cat >locustfile.py <<'PYTHON'
import time

import gevent
from locust import User, constant, events, task
from locust.runners import WorkerRunner

moments = {}


class Idle(User):
    wait_time = constant(0.05)

    @task
    def nothing(self):
        pass


def watch(runner):
    while runner.state != "stopped":
        gevent.sleep(0.005)
    moments["stopped"] = time.monotonic()


@events.init.add_listener
def on_init(environment, runner, **_):
    if isinstance(runner, WorkerRunner):
        return

    @environment.events.test_start.add_listener
    def on_start(**_):
        gevent.spawn_later(1, watch, runner)

    @environment.events.test_stop.add_listener
    def on_stop(**_):
        gap_s = time.monotonic() - moments["stopped"] if "stopped" in moments else 0.0
        print(f"GAP {gap_s:.2f}", flush=True)
PYTHON
port=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
web=$(venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >trial.py <<'PYTHON'
import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request

port, web = sys.argv[1:]
url = f"http://127.0.0.1:{web}"


def call(path, form=None):
    body = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(f"{url}/{path}", body, timeout=10) as response:
        return json.loads(response.read())


def wait_for(condition):
    for _ in range(600):
        try:
            if condition():
                return
        except OSError:
            pass  # until the page is there
        time.sleep(0.1)
    sys.exit("Locust did not get so far")


def gap_s(*options):
    command = ["venv/bin/locust", "--host", url, "--web-host", "127.0.0.1", "--web-port", web, *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        wait_for(lambda: len(call("stats/requests").get("workers", [])) == (2 if options else 0))
        call("swarm", {"user_count": "4", "spawn_rate": "4", "host": url})
        wait_for(lambda: call("stats/requests")["state"] == "running")
        time.sleep(2)
        call("stop", {"now": "yes"})
        return float(next(line for line in process.stdout if line.startswith("GAP")).split()[1])
    finally:
        process.terminate()
        process.wait()


alone = gap_s()
master = gap_s("--processes", "2", "--master-bind-port", port, "--master-port", port)
print(f"from the state 'stopped' to test_stop: {alone} s in one process, {master} s with two workers")
if alone > 0.1 or master < 0.2:
    sys.exit("this has changed: with workers it was most of a second")
PYTHON
venv/bin/python trial.py "$port" "$web"
