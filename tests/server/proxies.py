"""Real proxies with the files of deploy/proxy, on free ports, and calls through them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.server.servers import until
from tools.triton.installation import PROJECT
from tools.triton.ports import choose_port, listens
from tools.triton.server import TritonServer

FILES = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "envoy": "envoy.yaml"}
PATIENCE = "600s"
"""How long a request may be silent, as the files have it."""

NGINX = """
daemon off; pid nginx.pid; worker_processes 1; {user}
events {{}}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
    include flux.conf;
}}
"""
"""What a system's nginx.conf has around our file, with everything in one folder."""


@dataclass(frozen=True)
class Proxied:
    """Where the three services are reached, host:port."""

    http: str
    grpc: str
    gateway: str


@contextmanager
def proxied(name: str, server: TritonServer, gateway: str, folder: Path, patience_s: int) -> Iterator[Proxied]:
    """The proxy before a server and a gateway, with its file as it is, but for the ports and PATIENCE."""
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed")
    ports = {8000: server.http_port, 8001: server.grpc_port, 8080: urlsplit(gateway).port}
    for port in (9000, 9001, 9080):
        ports[port] = choose_port("0.0.0.0", name, 0, {port or 0 for port in ports.values()})
    text = (PROJECT / "deploy" / "proxy" / FILES[name]).read_text()
    text = re.sub(r"\b(8000|8001|8080|9000|9001|9080)\b", lambda found: str(ports[int(found[0])]), text)
    folder.mkdir()
    folder.joinpath("flux.conf").write_text(text.replace(PATIENCE, f"{patience_s}s"))
    with (
        folder.joinpath("log").open("wb") as log,
        subprocess.Popen([program, *_options(name, folder)], cwd=folder, stdout=log, stderr=log) as process,
    ):
        try:

            def serves() -> bool:
                assert process.poll() is None, folder.joinpath("log").read_text()
                return all(listens("127.0.0.1", ports[port] or 0) for port in (9000, 9001, 9080))

            until(serves, f"{name} to listen")
            yield Proxied(*(f"127.0.0.1:{ports[port]}" for port in (9000, 9001, 9080)))
        finally:
            process.terminate()


def _options(name: str, folder: Path) -> list[str]:
    if name == "nginx":
        user = "user root;" if os.geteuid() == 0 else ""  # or its worker could not enter the folder
        folder.joinpath("nginx.conf").write_text(NGINX.format(user=user))
        return ["-p", f"{folder}/", "-c", "nginx.conf", "-e", "stderr"]
    if name == "haproxy":
        return ["-db", "-f", "flux.conf"]
    folder.joinpath("flux.conf").rename(folder / "flux.yaml")  # it goes by the suffix
    return ["-c", "flux.yaml", "--base-id", str(os.getpid()), "--log-level", "warning", "--concurrency", "1"]


class Call(threading.Thread):
    """One request. `ask` gives something once its answer has begun, where that is seen, and its picture at the end."""

    def __init__(self, ask: Callable[[Proxied], Iterator[bytes]], through: Proxied) -> None:
        super().__init__(name=ask.__name__, daemon=True)
        self._ask, self._through = ask, through
        self.begun = threading.Event()
        self.picture = b""
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            for part in self._ask(self._through):
                self.picture = part
                self.begun.set()
        except Exception as error:  # whatever a client makes of a connection that is cut
            self.error = error

    @property
    def answered(self) -> bool:
        """With a picture, and not with a part of a stream."""
        return not self.is_alive() and self.error is None and self.picture.startswith(b"\x89PNG")


@contextmanager
def silent(server: TritonServer) -> Iterator[None]:
    """Nothing comes from flux meanwhile: its process stands still."""
    (stub,) = [stub for stub in server.stubs() if any("/flux/1/" in argument for argument in stub.arguments)]
    os.kill(stub.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(stub.pid, signal.SIGCONT)
