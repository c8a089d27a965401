"""`python -m tools.triton`: serve in the foreground until SIGINT or SIGTERM, as `make serve` and the container do."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tools.triton.api import ApiError
from tools.triton.control_key import HEADER, find_key, key_file
from tools.triton.errors import ServerFailed, TritonNotFound
from tools.triton.installation import PROJECT, find_triton
from tools.triton.log import STANDARD_OUTPUT
from tools.triton.server import MODEL_REPOSITORY, MODELS, TritonServer
from tools.triton.shared_memory import size_problem
from tools.triton.signals import Signals, StopRequested
from tools.triton.watching.supervisor import Restarts, supervise

LOG_FILE = PROJECT / "out" / "triton.log"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    try:
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
        signals = Signals(server.kill)
        server.installation = find_triton()
        print(f"Starting Triton from {server.installation.origin}, log in {_shown(options.log_file)} …", flush=True)
        return _run(server, Restarts(options.restarts), signals, options.log_file, show_log=not options.quiet)
    except (TritonNotFound, ServerFailed, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _shell_code(getattr(error, "exit_code", None) or 1)


def _run(server: TritonServer, restarts: Restarts, signals: Signals, log_file: Path, *, show_log: bool) -> int:
    with _follow(log_file, show=show_log) as show_news:
        announced = False

        def attend() -> None:
            nonlocal announced
            show_news(skip=not announced)  # not what it said before it was ready
            with contextlib.suppress(ApiError):  # it is gone already
                if not announced:
                    _announce(server)
                announced = True

        try:
            supervise(server, restarts, signals.look, attend)
            print("tritonserver was stopped from elsewhere", flush=True)
        except StopRequested:
            print("Stopping …", flush=True)
        finally:
            exit_code = server.stop()
    if exit_code != 0:
        print(f"error: tritonserver did not stop cleanly, see {_shown(log_file)}", file=sys.stderr)
    return _shell_code(exit_code)


def _announce(server: TritonServer) -> None:
    models = ", ".join(server.models)
    print(f"Triton {server.api.version()} serves {models}")
    print(f"  HTTP     {server.urls.http}\n  gRPC     {server.urls.grpc}\n  metrics  {server.urls.metrics}")
    print(f"  control  {_where_key_is(server)}")
    if problem := size_problem():
        print(f"warning: {problem}")
    print("Ctrl-C stops it.", flush=True)


def _where_key_is(server: TritonServer) -> str:
    if os.environ.get("TRITON_CONTROL_KEY"):
        return f"header {HEADER}: the key of TRITON_CONTROL_KEY"
    if find_key("localhost", server.http_port) == server.control_key:
        return f"header {HEADER}: the key in {key_file(server.http_port)}"
    return "nobody: there is no folder to write the key to; give one by TRITON_CONTROL_KEY"


@contextlib.contextmanager
def _follow(log_file: Path, *, show: bool) -> Iterator[Callable[..., None]]:
    """Something that prints what is new in the log at each call, or skips it."""
    if not show or log_file == STANDARD_OUTPUT:
        yield lambda *, skip: None
        return
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.touch()
    with log_file.open("rb") as log:

        def show_news(*, skip: bool) -> None:
            news = log.read()
            if news and not skip:
                print(news.decode(errors="replace"), end="", file=sys.stderr, flush=True)

        yield show_news


def _shown(log_file: Path) -> str:
    return "the output" if log_file == STANDARD_OUTPUT else str(log_file)


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
    parser = argparse.ArgumentParser(
        prog="python -m tools.triton",
        description="Serve FLUX on a real Triton server.",
        epilog="Defaults are those of the variables TRITON_HOST, TRITON_HTTP_PORT, TRITON_GRPC_PORT, "
        "TRITON_METRICS_PORT, TRITON_MODEL_REPOSITORY, TRITON_MODELS, TRITON_START_TIMEOUT_S, TRITON_EXIT_TIMEOUT_S, "
        "TRITON_RESTARTS and TRITON_LOG_FILE where they are set.",
    )
    given = {name: value for name, value in os.environ.items() if value}.get
    add = parser.add_argument
    add("--host", default=given("TRITON_HOST", "127.0.0.1"), help="address to listen on; default 127.0.0.1")
    for service, port in (("http", "8000"), ("grpc", "8001"), ("metrics", "8002")):
        add(f"--{service}-port", type=_port, default=given(f"TRITON_{service.upper()}_PORT", port),
            help=f"default {port}; 0 for any free one")  # fmt: skip
    add("--model-repository", type=Path, default=given("TRITON_MODEL_REPOSITORY", str(MODEL_REPOSITORY)),
        help="default model_repository/")  # fmt: skip
    add("--model", dest="models", action="append", help=f"model to load, may be repeated; default {', '.join(MODELS)}")
    add("--set", dest="settings", type=_setting, action="append", default=[], metavar="NAME=VALUE",
        help="parameter of the engine, as FLUX_<NAME> would set it, e.g. max_batch=8; may be repeated")  # fmt: skip
    add("--start-timeout", type=float, default=given("TRITON_START_TIMEOUT_S", "600"), metavar="S",
        help="seconds for the models to load; default 600")  # fmt: skip
    add("--exit-timeout", type=int, default=given("TRITON_EXIT_TIMEOUT_S", "30"), metavar="S",
        help="seconds for the last requests; default 30")  # fmt: skip
    add("--restarts", type=int, default=given("TRITON_RESTARTS", "5"), metavar="N",
        help="how often within ten minutes a server that crashed is started again; default 5")  # fmt: skip
    add("--log-file", type=Path, default=given("TRITON_LOG_FILE", str(LOG_FILE)),
        help="default out/triton.log; - for the output")  # fmt: skip
    add("--quiet", action="store_true", help="do not show the server's log")
    add("arguments", nargs="*", metavar="-- OPTION", help="further options for tritonserver")
    options = parser.parse_args(arguments)
    options.models = options.models or given("TRITON_MODELS", " ".join(MODELS)).split()
    return options


if __name__ == "__main__":
    sys.exit(main())
