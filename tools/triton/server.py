"""One Triton server of our own: started, reached, reconfigured and stopped."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tools.triton.api import JSON, ApiError, TritonApi, Urls
from tools.triton.command import check_arguments, server_options, server_variables
from tools.triton.control_key import choose_key, hide_key, publish, withdraw
from tools.triton.errors import ServerFailed
from tools.triton.installation import PROJECT, Installation, find_triton
from tools.triton.log import ServerLog
from tools.triton.ports import choose_port, listens
from tools.triton.process import POLL_S, ServerProcess
from tools.triton.shared_memory import remove_abandoned
from tools.triton.signals import StopRequested
from tools.triton.stub import Stub

MODEL_REPOSITORY = PROJECT / "model_repository"
MODELS = ("flux", "flux_unary")
BUSY_STATES = ("READY", "LOADING", "UNLOADING")


class TritonServer:
    """A Triton server with explicit model control, as a context manager: ready inside, stopped after.

    `models` are loaded at the start. Port 0 means any free one. `environment` comes on top of the caller's, so
    FLUX_* settings go either way. `arguments` are further options for tritonserver. Without `log_file` the log goes
    to a temporary file, which stays only after a failure. Model control, shared memory, trace and log settings want
    `control_key`: that of TRITON_CONTROL_KEY, or a random one. One thread starts and stops a server; `api`, `urls`,
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
        self.arguments = check_arguments(arguments)
        self.start_timeout_s = start_timeout_s
        self.exit_timeout_s = exit_timeout_s
        self.installation = installation
        self.control_key = choose_key()
        self._log = ServerLog(log_file)
        self._process: ServerProcess | None = None

    def __enter__(self) -> TritonServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- life ---

    def start(self, look: Callable[[], None] = lambda: None) -> TritonServer:
        """Starts the server and returns when it and its models are ready.

        `look` is called again and again meanwhile; after a StopRequested of it the server is still to be stopped.
        Raises TritonNotFound, PortTaken, or ServerFailed if it exits or is not ready in time; nothing is left running.
        """
        if self._process is not None:
            raise RuntimeError("this server is running already")
        installation = self.installation or find_triton()
        if not self.model_repository.is_dir():
            raise ServerFailed(f"there is no model repository at {self.model_repository}")
        remove_abandoned()
        ports = self._choose_ports()
        options = server_options(
            self.model_repository, self.models, self.host, ports, self.exit_timeout_s, self.control_key
        )
        command = [str(installation.executable), *installation.arguments, *options, *self.arguments]
        variables = {**server_variables(self.exit_timeout_s), **os.environ, **self.environment}
        try:
            with self._log.open() as log:
                self._process = ServerProcess(command, installation.environment(variables), log, self._patience_s)
        except OSError as error:  # no memory, no space, no such program
            raise ServerFailed(f"tritonserver could not be started: {error}") from error
        try:
            with contextlib.suppress(OSError, RuntimeError):  # no home, or none to write to: the server needs no file
                publish(self.control_key, (self.http_port, self.grpc_port))
            self._wait_until_ready(look)
        except StopRequested:
            raise
        except BaseException:
            self._log.keep = True
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
        try:
            exit_code = process.end()
        finally:
            self._process = None  # until here `kill` cuts the draining short
        withdraw(self.control_key, (self.http_port, self.grpc_port))
        self._log.keep |= exit_code != 0
        self._log.close()
        return exit_code

    def kill(self) -> None:
        """Ends the server at once, also one that drains. `stop` then only clears up."""
        if self._process is not None:
            self._process.kill()

    def poll(self) -> int | None:
        """The exit code of a server that ended by itself, or None while it runs."""
        return self._running.poll()

    @property
    def children(self) -> set[int]:
        """The processes of this server that are collected here."""
        return self._running.children

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
        return TritonApi("127.0.0.1" if self.host == "0.0.0.0" else self.host, self.http_port, self.control_key)

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
        return self._running.stubs()

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of the server's log."""
        return self._log.tail(lines)

    @property
    def log_file(self) -> Path | None:
        return self._log.file

    # --- inside ---

    @property
    def _running(self) -> ServerProcess:
        if self._process is None:
            raise RuntimeError("this server is not running")
        return self._process

    @property
    def _patience_s(self) -> float:
        """How long a stop may take: Triton counts its exit timeout in whole seconds and then unloads."""
        return self.exit_timeout_s + 5.0

    def _choose_ports(self) -> dict[str, int]:
        """By service."""
        ports: dict[str, int] = {}
        for service in ("http", "grpc", "metrics"):
            ports[service] = choose_port(self.host, service, getattr(self, f"{service}_port"), set(ports.values()))
            setattr(self, f"{service}_port", ports[service])
        return ports

    def _wait_until_ready(self, look: Callable[[], None]) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        hidden = False
        while not self._is_ready():
            if not hidden and self.stubs():  # Triton reads its command line long before it starts one
                hide_key(self.control_key, self.pid)
                hidden = True
            exit_code = self.poll()
            if exit_code is not None:
                raise ServerFailed(f"tritonserver ended with code {exit_code}", self.log_tail(), exit_code)
            look()
            if time.monotonic() > deadline:
                raise ServerFailed(f"not ready after {self.start_timeout_s:g} s", self.log_tail())
            time.sleep(POLL_S)
        hide_key(self.control_key, self.pid)

    def _is_ready(self) -> bool:
        models_are = self.api.ready() and all(self.api.ready(model) for model in self.models)
        # Triton opens this port last. Whoever decides on metrics by an argument may have none.
        needless = any(argument.startswith("--allow-metrics") for argument in self.arguments)
        return models_are and (needless or listens(self.api.host, self.metrics_port))
