"""Typed client of FLUX served by Triton: `FluxClient`, and `AsyncFluxClient` for asyncio."""

from fluxclient.async_client import AsyncFluxClient
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
from fluxclient.health import Health
from fluxclient.inputs.lora import Loras
from fluxclient.inputs.options import Options
from fluxclient.inputs.source_image import SourceImage
from fluxclient.mock_transport import MockRequest, MockTransport
from fluxclient.result import Event, Info, Preview, Progress, Result
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
    "MockRequest",
    "MockTransport",
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
