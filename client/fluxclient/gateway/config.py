"""What a gateway is started with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import limits

from fluxclient.core import DEFAULT_MODEL, DEFAULT_TIMEOUT_S, DEFAULT_URL
from fluxclient.gateway.fields import ResponseFormat

MIB = 1024 * 1024


@dataclass(frozen=True)
class GatewayConfig:
    """Settings of one gateway. Raises ValueError, which begins with the setting's name, for what cannot be used."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0: any free one."""
    url: str = DEFAULT_URL
    """Of the Triton server, as FluxClient takes it."""
    metrics_url: str | None = None
    """Of its metrics, for the page; None: on port 8002 of the same host."""
    model: str = DEFAULT_MODEL
    """On the server."""
    aliases: tuple[str, ...] = ()
    """Other names by which callers may call the model, as they have them built in: gpt-image-1."""
    response_format: ResponseFormat = "b64_json"
    """For requests that do not say."""
    public_url: str | None = None
    """What addresses in answers begin with: how callers reach this gateway. None: as each of them called it."""
    allow_origins: tuple[str, ...] = ()
    """Sites whose pages may call from a browser, as https://app.example; "*" for all. In lower case, as browsers
    say them, whatever it is made with."""
    keys: Path | None = None
    """File of API keys, one a line: `key` or `name:key`. FLUXCLIENT_GATEWAY_KEYS adds to them. None at all: anybody
    may call."""
    rate: str | None = None
    """Most drawing requests of each key, or of each address where there are no keys: "60/minute"."""
    timeout_s: float | None = DEFAULT_TIMEOUT_S
    """For one picture request as a whole, retries included."""
    retries: int = 8
    """With their pauses enough for the restart of a server."""
    max_body_bytes: int = MIB
    max_image_bytes: int = 20 * MIB
    """Of the file that an edit begins with, which comes on top of the rest of the body."""
    max_uploads_bytes: int = 256 * MIB
    """Bodies of all requests in flight, together."""
    max_jobs: int = 256
    """Jobs that are kept, finished ones included."""
    max_jobs_bytes: int = 256 * MIB
    """Pictures kept for jobs, together."""
    max_files_bytes: int = 256 * MIB
    """Pictures kept for response_format=url, together."""
    keep_s: float = 3600.0
    """How long files, and finished jobs, can be fetched."""
    stop_within_s: int = 30
    """What is in flight when the gateway is stopped is answered by then: with its picture, or with an error."""

    def __post_init__(self) -> None:
        self._check_rate()
        if self.response_format not in get_args(ResponseFormat):
            allowed = " or ".join(get_args(ResponseFormat))
            raise ValueError(f"response-format: is {self.response_format!r}; must be {allowed}")
        for alias in self.aliases:
            if not alias.strip() or not alias.isprintable():
                raise ValueError(f"alias: is {alias!r}; must be a name as callers send it, like gpt-image-1")
        if self.public_url is not None and not _is_base(self.public_url, path=True):
            raise ValueError(f"public-url: is {self.public_url!r}; must be like https://flux.example or with a path")
        for origin in self.allow_origins:
            if origin != "*" and not _is_base(origin, path=False):
                raise ValueError(f"allow-origin: is {origin!r}; must be like https://app.example, without a path, or *")
        object.__setattr__(self, "allow_origins", tuple(origin.lower() for origin in self.allow_origins))
        least = self.max_body_bytes + 2 * self.max_image_bytes  # an edit in base64
        if self.max_uploads_bytes < least:
            sent = f"{self.max_uploads_bytes / MIB:g}"
            raise ValueError(f"max-uploads-mib: is {sent}; must be {math.ceil(least / MIB)} or more: one picture")

    @property
    def drain_s(self) -> float:
        """What is in flight may go on for so long; what is left until `stop_within_s` is for the errors of the rest."""
        return self.stop_within_s - min(2.0, self.stop_within_s / 4)

    def _check_rate(self) -> None:
        if self.rate is None:
            return
        try:
            limits.parse(self.rate)
        except ValueError:
            problem = f"rate: is {self.rate!r}; must be like 60/minute or 1000 per 2 hours"
            raise ValueError(problem) from None


def _is_base(url: str, *, path: bool) -> bool:
    """Whether something can be put behind it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # a port or an address that is none
        return False
    known = parts.scheme in ("http", "https") and bool(parts.hostname) and not any(map(str.isspace, url))
    return known and not (parts.query or parts.fragment or parts.username) and (path or not parts.path)
