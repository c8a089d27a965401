"""How flux and flux_unary, models of one server, talk: over a Unix socket.

Not through Triton. A thread of the model that answers would hand the response on there, and wait for ever, with all
other answers of that model behind it, if the process of the model that asked has died. A socket ends with the process.

A message is the length of its head (4 bytes), its head (JSON), and the bytes of its arrays. To flux:

    {"id": n, "request_id": …, "parameters": "…", "timeout_us": …} and the input tensors
    {"cancel": n}            its caller has left
    {"bye": true}            nothing more will come, as was asked for

and from it:

    {"id": n}                and the output tensors; or {"id": n, "error": the message}
    {"in_flight": images}    ten times a second
    {"closing": true}        send nothing more but bye
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]

_LENGTH = struct.Struct("!I")
_TEXTS = "texts"
"""The dtype of arrays of objects, each of them some bytes."""


def socket_folder() -> Path:
    """Where the models of one server find each other: named after the process of the server, whose child this is.

    Beside the memory that Triton shares with its models, and so as private to a container as that is. Process ids are
    only unique within their namespace, and containers may share the memory.
    """
    return Path("/dev/shm") / f"flux-triton-{os.stat('/proc/self/ns/pid').st_ino}-{os.getppid()}"


def is_private(folder: Path) -> bool:
    """Whether it is a folder that nobody but this user can put anything into. Anybody may have made one there."""
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def packed(head: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> bytes:
    """A message as it is sent."""
    descriptions, parts = [], []
    for name, array in (arrays or {}).items():
        description: dict[str, Any] = {"name": name, "shape": array.shape, "dtype": array.dtype.str}
        if array.dtype == np.object_:
            texts = [text.encode() if isinstance(text, str) else bytes(text) for text in array.reshape(-1)]
            description |= {"dtype": _TEXTS, "lengths": [len(text) for text in texts]}
            parts += texts
        else:
            parts.append(array.tobytes())
        descriptions.append(description)
    text = json.dumps({**head, "arrays": descriptions}).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *parts])


async def read_message(reader: asyncio.StreamReader) -> tuple[dict[str, Any], Arrays]:
    """The next message. Raises IncompleteReadError or OSError at the end of the connection."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    head: dict[str, Any] = json.loads(await reader.readexactly(length))
    arrays: Arrays = {}
    for description in head.pop("arrays"):
        shape = description["shape"]
        if description["dtype"] == _TEXTS:
            texts = [await reader.readexactly(size) for size in description["lengths"]]
            array: npt.NDArray[Any] = np.empty(len(texts), np.object_)
            array[:] = texts
        else:
            dtype = np.dtype(description["dtype"])
            array = np.frombuffer(await reader.readexactly(int(np.prod(shape)) * dtype.itemsize), dtype)
        arrays[description["name"]] = array.reshape(shape)
    return head, arrays
