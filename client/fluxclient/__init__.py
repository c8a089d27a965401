"""Typed client of FLUX served by Triton: `FluxClient`, and `AsyncFluxClient` for asyncio."""

from fluxclient.aio import AsyncFluxClient
from fluxclient.base import Health
from fluxclient.client import FluxClient
from fluxclient.errors import (
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    FluxError,
    InvalidArgument,
    NotFound,
    Overloaded,
    ServerError,
)
from fluxclient.lora import Loras
from fluxclient.request import Options
from fluxclient.result import Event, Info, Preview, Progress, Result
from fluxclient.source_image import SourceImage
from fluxclient.statistics import Statistics

__all__ = [
    "AsyncFluxClient",
    "Cancelled",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Event",
    "FluxClient",
    "FluxError",
    "Health",
    "Info",
    "InvalidArgument",
    "Loras",
    "NotFound",
    "Options",
    "Overloaded",
    "Preview",
    "Progress",
    "Result",
    "ServerError",
    "SourceImage",
    "Statistics",
]
