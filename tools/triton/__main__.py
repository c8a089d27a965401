"""`python -m tools.triton`: serve in the foreground until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tools.triton.errors import ServerFailed, TritonNotFound
from tools.triton.installation import PROJECT, find_triton
from tools.triton.server import MODEL_REPOSITORY, MODELS, TritonServer
from tools.triton.watchdog import Watchdog

LOG_FILE = PROJECT / "out" / "triton.log"
LOOK_S = 0.1
# make and a process group can both hand on one and the same signal; after this, a further one means "now".
SAME_SIGNAL_S = 2.0


class _StopRequested(Exception):
    """A signal asks to stop."""


class _Signals:
    """The first SIGINT or SIGTERM stops the server, and a later one kills it.

    The first is only noted: raised from the handler, it could cut anything off in the middle, such as the start of a
    process that nobody would know then.
    """

    def __init__(self, server: TritonServer) -> None:
        self.server = server
        self.first_at: float | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.first_at is None:
            self.first_at = time.monotonic()
        elif time.monotonic() - self.first_at > SAME_SIGNAL_S:
            self.server.kill()

    def look(self) -> None:
        """Raises _StopRequested after the first signal."""
        if self.first_at is not None:
            raise _StopRequested


class _Make:
    """The `make` above, if there is one. It waits for us without handing SIGINT on, so we look whether it got one."""

    def __init__(self) -> None:
        self.pid = os.getppid()
        self.is_parent = self._status().get("Name") in ("make", "gmake")

    def wants_to_stop(self) -> bool:
        if not self.is_parent:
            return False
        handling = int(self._status().get("SigBlk", "0"), 16) >> (signal.SIGINT - 1) & 1
        return bool(handling) or os.getppid() != self.pid

    def _status(self) -> dict[str, str]:
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return {}
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    server = TritonServer(
        options.model_repository,
        options.models,
        host=options.host,
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        metrics_port=options.metrics_port,
        environment={f"FLUX_{name.upper()}": value for name, value in options.settings},
        arguments=options.arguments,
        log_file=options.log_file,
        start_timeout_s=options.start_timeout,
        exit_timeout_s=options.exit_timeout,
    )
    make = _Make()
    try:
        signals = _Signals(server)
        server.installation = find_triton()
        print(f"Starting Triton from {server.installation.origin}, log in {options.log_file} …", flush=True)
        server.start(signals.look)
        try:
            with Watchdog(server):
                _announce(server)
                _wait(server, signals, make, options.log_file, show_log=not options.quiet)
        except _StopRequested:
            print("Stopping …", flush=True)
        finally:
            exit_code = server.stop()
    except _StopRequested:
        return 0
    except (TritonNotFound, ServerFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return _shell_code(getattr(error, "exit_code", None) or 1)
    if exit_code != 0:
        print(f"error: tritonserver did not stop cleanly, see {options.log_file}", file=sys.stderr)
    return _shell_code(exit_code)


def _announce(server: TritonServer) -> None:
    models = ", ".join(server.models)
    print(f"Triton {server.api.version()} serves {models}")
    print(f"  HTTP     {server.urls.http}\n  gRPC     {server.urls.grpc}\n  metrics  {server.urls.metrics}")
    print("Ctrl-C stops it.", flush=True)


def _wait(server: TritonServer, signals: _Signals, make: _Make, log_file: Path, show_log: bool) -> None:
    """Returns never: raises _StopRequested, or ServerFailed if the server ends by itself. Shows the log meanwhile."""
    with log_file.open("rb") as log:
        log.seek(0, os.SEEK_END)
        while True:
            news = log.read()
            if show_log and news:
                print(news.decode(errors="replace"), end="", file=sys.stderr, flush=True)
            exit_code = server.poll()
            if exit_code is not None:
                raise ServerFailed(f"tritonserver ended with code {exit_code}", server.log_tail(), exit_code)
            signals.look()
            if make.wants_to_stop():
                raise _StopRequested
            time.sleep(LOOK_S)


def _shell_code(exit_code: int) -> int:
    """The code as a shell tells it: 128 + signal for a process that a signal has ended."""
    return exit_code if exit_code >= 0 else 128 - exit_code


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    return name, value


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to 65535, 0 for any free one")
    return port


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.triton", description="Serve FLUX on a real Triton server.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on, 0.0.0.0 for all; default 127.0.0.1")
    add("--http-port", type=_port, default=8000, help="default 8000; 0 for any free one, here and below")
    add("--grpc-port", type=_port, default=8001, help="default 8001")
    add("--metrics-port", type=_port, default=8002, help="default 8002")
    add("--model-repository", type=Path, default=MODEL_REPOSITORY, help="default model_repository/")
    add("--model", dest="models", action="append", help=f"model to load, may be repeated; default {', '.join(MODELS)}")
    add("--set", dest="settings", type=_setting, action="append", default=[], metavar="NAME=VALUE",
        help="parameter of the engine, as FLUX_<NAME> would set it, e.g. max_batch=8; may be repeated")  # fmt: skip
    add("--start-timeout", type=float, default=600, metavar="S", help="seconds for the models to load; default 600")
    add(
        "--exit-timeout",
        type=int,
        default=30,
        metavar="S",
        help="seconds for the last requests; default 30",
    )
    add("--log-file", type=Path, default=LOG_FILE, help="default out/triton.log")
    add("--quiet", action="store_true", help="do not show the server's log")
    add("arguments", nargs="*", metavar="-- OPTION", help="further options for tritonserver")
    options = parser.parse_args(arguments)
    options.models = options.models or list(MODELS)
    return options


if __name__ == "__main__":
    sys.exit(main())
