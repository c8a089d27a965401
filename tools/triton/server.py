"""One Triton server of our own: started, reached, reconfigured and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tools.triton.api import JSON, ApiError, TritonApi
from tools.triton.errors import ServerFailed
from tools.triton.installation import PROJECT, Installation, find_triton
from tools.triton.ports import choose_port, listens
from tools.triton.stub import Stub, find_stubs

MODEL_REPOSITORY = PROJECT / "model_repository"
MODELS = ("flux", "flux_unary")
BUSY_STATES = ("READY", "LOADING", "UNLOADING")
POLL_S = 0.05
# How long a server may go on after its last stub: nothing is left to drain then, but a model that lost a stub with
# requests in it is never released, and Triton 24.10 would wait for it until its exit timeout.
AFTER_LAST_STUB_S = 5.0


@dataclass(frozen=True)
class Urls:
    """Where to reach a server."""

    http: str  # http://host:port
    grpc: str  # grpc://host:port
    metrics: str  # http://host:port/metrics


class TritonServer:
    """A Triton server with explicit model control, as a context manager: ready inside, stopped after.

    `models` are loaded at the start. Port 0 means any free one. `environment` comes on top of the caller's, so
    FLUX_* settings go either way. `arguments` are further options for tritonserver. Without `log_file` the log goes
    to a temporary file, which stays only after a failure. One thread starts and stops a server; `api`, `urls`,
    `stubs` and `log_tail` are for all.
    """

    def __init__(
        self,
        model_repository: Path = MODEL_REPOSITORY,
        models: Sequence[str] = MODELS,
        *,
        host: str = "127.0.0.1",
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        log_file: Path | None = None,
        start_timeout_s: float = 600.0,
        exit_timeout_s: int = 30,
        installation: Installation | None = None,
    ) -> None:
        self.model_repository = model_repository.resolve()
        self.models = tuple(models)
        self.host = host
        self.http_port = http_port
        self.grpc_port = grpc_port
        self.metrics_port = metrics_port
        self.environment = dict(environment or {})
        self.arguments = tuple(arguments)
        self.log_file = log_file
        self.start_timeout_s = start_timeout_s
        self.exit_timeout_s = exit_timeout_s
        self.installation = installation
        self._keep_log = log_file is not None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> TritonServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- life ---

    def start(self, look: Callable[[], None] = lambda: None) -> TritonServer:
        """Starts the server and returns when it and its models are ready.

        `look` is called again and again meanwhile; what it raises ends the start. Raises TritonNotFound, PortTaken, or
        ServerFailed if it exits or is not ready in time; nothing is left running.
        """
        if self._process is not None:
            raise RuntimeError("this server is running already")
        installation = self.installation or find_triton()
        if not self.model_repository.is_dir():
            raise ServerFailed(f"there is no model repository at {self.model_repository}")
        self._choose_ports()
        command = [str(installation.executable), *installation.arguments, *self._options(), *self.arguments]
        with self._open_log() as log:
            self._process = subprocess.Popen(
                command,
                env=installation.environment({**os.environ, **self.environment}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at a terminal must reach the launcher only, which then stops it
            )
        try:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", str(Path(__file__).with_name("guard.py")), str(self.pid), str(self._patience_s)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            self._wait_until_ready(look)
        except BaseException:
            self._keep_log = True
            self.stop()
            raise
        return self

    def stop(self) -> int:
        """Stops the server: SIGTERM, time to drain, SIGKILL past it; no stub remains. Stopping twice is no error.

        Returns the exit code: 0 if it went cleanly, or was stopped already.
        """
        process = self._process
        if process is None:
            return 0
        stubs = find_stubs(process.pid)
        try:
            exit_code = _exit_code(process)
            if exit_code is None:
                process.send_signal(signal.SIGTERM)
                exit_code = self._drain(process)
            process.wait()
        finally:
            self._process = None  # until here `kill` cuts the draining short
        for stub in stubs:
            stub.kill()
        if self._guard is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guard.communicate(b"done")
            self._guard = None
        if exit_code != 0:
            self._keep_log = True
        if not self._keep_log and self.log_file is not None:
            self.log_file.unlink(missing_ok=True)
            self.log_file = None
        return exit_code

    def kill(self) -> None:
        """Ends the server at once, also one that drains. `stop` then only clears up."""
        if self._process is not None:
            self._process.kill()

    def poll(self) -> int | None:
        """The exit code of a server that ended by itself, or None while it runs."""
        return _exit_code(self._running)

    @property
    def pid(self) -> int:
        return self._running.pid

    # --- use ---

    @property
    def urls(self) -> Urls:
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        return Urls(
            f"http://{host}:{self.http_port}",
            f"grpc://{host}:{self.grpc_port}",
            f"http://{host}:{self.metrics_port}/metrics",
        )

    @property
    def api(self) -> TritonApi:
        return TritonApi("127.0.0.1" if self.host == "0.0.0.0" else self.host, self.http_port)

    def load(self, model: str, config: JSON | None = None, *, parameters: Mapping[str, str] | None = None) -> None:
        """Loads a model, or loads it anew, and waits until it serves.

        `config` is a whole configuration in place of the file's (see `TritonApi.configuration`). `parameters`, those
        of the engine for `flux`, replace single ones in it, or in what the model runs with. Raises ServerFailed.
        """
        try:
            if parameters is not None:
                config = {**(config if config is not None else self.api.configuration(model))}
                changed = {name: {"string_value": value} for name, value in parameters.items()}
                config["parameters"] = {**config.get("parameters", {}), **changed}
            self.api.load(model, config, self.start_timeout_s)
        except ApiError as error:
            raise ServerFailed(f"model {model} was not loaded: {error}", self.log_tail()) from error

    def unload(self, model: str) -> None:
        """Unloads a model and waits until it is gone. Raises ServerFailed past the exit timeout."""
        deadline = time.monotonic() + self._patience_s
        try:
            self.api.unload(model, self._patience_s)
            while any(entry["name"] == model and entry.get("state") in BUSY_STATES for entry in self.api.index()):
                if time.monotonic() > deadline:
                    raise ServerFailed(f"model {model} is still busy after {self._patience_s:g} s", self.log_tail())
                time.sleep(POLL_S)
        except ApiError as error:
            raise ServerFailed(f"model {model} was not unloaded: {error}", self.log_tail()) from error

    def stubs(self) -> list[Stub]:
        """The living stub processes of this server."""
        return find_stubs(self.pid)

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the server's log."""
        if self.log_file is None or not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 200 * lines))
            text = log.read().replace(b"\0", b"").decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    # --- inside ---

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("this server is not running")
        return self._process

    @property
    def _patience_s(self) -> float:
        """How long a stop may take: Triton counts its exit timeout in whole seconds and then unloads."""
        return self.exit_timeout_s + 5.0

    def _options(self) -> Iterator[str]:
        yield f"--model-repository={self.model_repository}"
        yield "--model-control-mode=explicit"
        for model in self.models:
            yield f"--load-model={model}"
        for service in ("http", "grpc", "metrics"):
            yield f"--{service}-address={self.host}"
            yield f"--{service}-port={getattr(self, f'{service}_port')}"
        yield "--allow-metrics=true"
        yield "--disable-auto-complete-config"
        yield f"--exit-timeout-secs={self.exit_timeout_s}"
        yield "--log-format=default"

    def _choose_ports(self) -> None:
        taken: set[int] = set()
        for service in ("http", "grpc", "metrics"):
            port = choose_port(self.host, service, getattr(self, f"{service}_port"), taken)
            setattr(self, f"{service}_port", port)
            taken.add(port)

    def _open_log(self) -> IO[bytes]:
        if self.log_file is None:
            handle, name = tempfile.mkstemp(prefix="triton-", suffix=".log")
            self.log_file = Path(name)
            return os.fdopen(handle, "wb")
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        return self.log_file.open("wb")

    def _wait_until_ready(self, look: Callable[[], None]) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while not self._is_ready():
            exit_code = self.poll()
            if exit_code is not None:
                raise ServerFailed(f"tritonserver ended with code {exit_code}", self.log_tail(), exit_code)
            look()
            if time.monotonic() > deadline:
                raise ServerFailed(f"not ready after {self.start_timeout_s:g} s", self.log_tail())
            time.sleep(POLL_S)

    def _is_ready(self) -> bool:
        models_are = self.api.ready() and all(self.api.ready(model) for model in self.models)
        # Triton opens this port last. Whoever decides on metrics by an argument may have none.
        needless = any(argument.startswith("--allow-metrics") for argument in self.arguments)
        return models_are and (needless or listens(self.api.host, self.metrics_port))

    def _drain(self, process: subprocess.Popen[bytes]) -> int:
        """Waits for a server that was told to end, kills it when nothing is left to wait for. Returns the exit code."""
        deadline = time.monotonic() + self._patience_s
        idle_at = time.monotonic() + AFTER_LAST_STUB_S
        while (exit_code := _exit_code(process)) is None and time.monotonic() < min(deadline, idle_at):
            time.sleep(POLL_S)
            if find_stubs(process.pid):
                idle_at = time.monotonic() + AFTER_LAST_STUB_S
        if exit_code is not None:
            return exit_code
        drained = time.monotonic() < deadline
        process.kill()
        exit_code = process.wait()
        return 0 if drained else exit_code


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """As `process.poll`, which a KeyboardInterrupt can leave with its lock held: then it never learns of the end."""
    if process.returncode is not None:
        return process.returncode
    try:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # WNOWAIT: `process` collects it
    except ChildProcessError:  # the system has collected it, as SIGCHLD is ignored here
        return process.poll()
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
