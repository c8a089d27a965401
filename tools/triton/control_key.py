"""The key without which nobody controls a server: made at each start, kept in a file for the tools of its owner.

Whoever may load models can run code of their own in the server, and whoever may register shared memory reads what is
not theirs. So these APIs want a header over HTTP and gRPC. Standard library only.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tools.triton.errors import ServerFailed

HEADER = "triton-control"
"""Over gRPC clients send it as `triton-grpc-protocol-triton-control`."""

RESTRICTED = ("model-repository", "shared-memory", "trace", "logging")
"""By Triton's names: loading, unloading and the index; system and CUDA shared memory; trace and log settings."""

VARIABLE = "TRITON_CONTROL_KEY"
FOLDER_VARIABLE = "TRITON_CONTROL_KEY_FOLDER"


def choose_key(environment: Mapping[str, str] = os.environ) -> str:
    """The key of the variable TRITON_CONTROL_KEY, or a random one. Raises ServerFailed where no header carries it."""
    key = environment.get(VARIABLE) or secrets.token_urlsafe(24)
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        raise ServerFailed(f"{VARIABLE}: must be visible ASCII characters, without spaces at its ends")
    return key


def restrictions(key: str) -> Iterator[str]:
    """The options of tritonserver that want this key."""
    names = ",".join(RESTRICTED)
    yield f"--http-restricted-api={names}:{HEADER}={key}"
    yield f"--grpc-restricted-protocol={names}:{HEADER}={key}"


def key_file(port: int) -> Path:
    """Where the key of the server that listens on this port of this machine is, over HTTP or gRPC."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return (Path(folder) if folder else Path.home() / ".cache" / "flux-triton") / f"control-key-{port}"


def publish(key: str, ports: Iterable[int]) -> None:
    """Writes a random key for whoever may read this user's files, and nobody else; of one that was given, nothing.

    What a launcher that was killed has left for these ports goes either way. Raises OSError where that cannot be.
    """
    for port in ports:
        file = key_file(port)
        file.unlink(missing_ok=True)
        if key == os.environ.get(VARIABLE):
            continue
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)  # EXCL: follows no link of another's
        try:
            with os.fdopen(handle, "w") as writing:
                writing.write(key + "\n")
        except OSError:
            file.unlink()
            raise


def withdraw(key: str, ports: Iterable[int]) -> None:
    """Removes the files of a server that has ended, but not those of its successor on the same ports."""
    for port in ports:
        with suppress(OSError, RuntimeError):
            file = key_file(port)
            if file.read_text().strip() == key:
                file.unlink()


def hide_key(key: str, pid: int) -> None:
    """Blots the key out of the command line of a server of ours, which everybody on the machine can read.

    To be called once the server has read it. A system that does not let us leaves it there.
    """
    with suppress(OSError):
        begin, end = map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[45:47])
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(begin)
            arguments = memory.read(end - begin)
            memory.seek(begin)
            memory.write(arguments.replace(key.encode(), b"*" * len(key)))


def find_key(host: str, port: int) -> str | None:
    """The key for a server: TRITON_CONTROL_KEY, or what a server of this user's on this machine wrote, if any."""
    if key := os.environ.get(VARIABLE):
        return key
    if host.strip("[]") in ("localhost", "127.0.0.1", "::1"):
        with suppress(OSError, RuntimeError):
            return key_file(port).read_text().strip() or None
    return None
