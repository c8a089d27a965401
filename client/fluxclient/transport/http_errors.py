"""What the libraries of HTTP fail with, as errors of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
from tritonclient.utils import InferenceServerException

from fluxclient.errors import ConnectionFailed, DeadlineExceeded, error_from


@contextmanager
def told(base_url: str, timeout_s: float | None, request_id: str = "") -> Iterator[None]:
    """Raises FluxError in place of what happens inside; the arguments are for its text."""
    try:
        yield
    except asyncio.TimeoutError:  # another class than TimeoutError in Python 3.10
        problem = f"no answer within {timeout_s:g} s"
        raise DeadlineExceeded(problem, field="timeout", request_id=request_id) from None
    except aiohttp.ClientError as error:
        problem = f"{base_url}: {str(error) or type(error).__name__}"
        raise ConnectionFailed(problem, field="connection", request_id=request_id) from error
    except InferenceServerException as error:
        raise error_from(str(error.message()), request_id=request_id, status=str(error.status())) from error
