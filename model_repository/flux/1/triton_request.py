"""What Triton hands over for one request, read so that nothing in it can raise anything but InvalidArgument."""

from __future__ import annotations

import uuid
from typing import Any

from fluxengine.errors import InvalidArgument
from fluxengine.wire.row_values import Value


def request_id(request: Any) -> str:
    """That of the request, or a new one if it has none, or one that is not UTF-8 and so cannot be read."""
    try:
        own = str(request.request_id())
    except UnicodeDecodeError:
        own = ""
    return own or uuid.uuid4().hex[:12]


def parameters(request: Any) -> str:
    """As JSON. The id of a `generate` body is one of them."""
    try:
        return str(request.parameters())
    except UnicodeDecodeError as error:
        raise InvalidArgument("parameters", f"must be UTF-8 text, as must the id ({error.reason})") from None


def values(tensor: Any) -> list[Value]:
    found: list[Value] = tensor.as_numpy().reshape(-1).tolist()  # [N, 1]; a copy, as Triton reuses the memory
    return found
