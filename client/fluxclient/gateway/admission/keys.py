"""API keys: who may call."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fluxclient.gateway.errors import ApiError

KEYS_VARIABLE = "FLUXCLIENT_GATEWAY_KEYS"

FILES_PATH = "/v1/images/files/"
PUBLIC_PATHS = ("/", "/health", "/metrics")
PUBLIC_FOLDERS = ("/page/", FILES_PATH)
"""The names of files cannot be guessed: whoever has one was told."""


class Keys:
    """The keys that open the gateway, each with a name for logs. Without any it is open to all."""

    def __init__(self, entries: Iterable[str]) -> None:
        """`entries` are `key` or `name:key`. Raises ValueError, which never quotes a key."""
        self._names: dict[bytes, str] = {}
        for number, entry in enumerate(entries, 1):
            name, colon, key = entry.partition(":")
            name, key = (name.strip(), key.strip()) if colon else (f"key {number}", entry.strip())
            if not key or not name:
                raise ValueError(f"keys: number {number} is empty; must be KEY or NAME:KEY")
            self._names[key.encode()] = name

    def __bool__(self) -> bool:
        return bool(self._names)

    def caller(self, authorization: str) -> str | None:
        """The name of the key in an Authorization header, or None. Takes as long for a wrong key as for a right one."""
        scheme, _, key = authorization.partition(" ")  # in Latin-1, as headers are decoded
        found = None
        for known, name in self._names.items():
            if hmac.compare_digest(known, key.strip().encode("latin-1")):
                found = name
        return found if scheme.lower() == "bearer" else None


def read_keys(path: Path | None, environment: Mapping[str, str]) -> Keys:
    """Keys of the file, where there is one, and of the variable FLUXCLIENT_GATEWAY_KEYS, which has commas between.

    Raises OSError as files do, and ValueError for a file without keys: it would open the gateway to all.
    """
    entries = [entry for entry in environment.get(KEYS_VARIABLE, "").split(",") if entry.strip()]
    if path is not None:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        of_file = [line for line in lines if line and not line.startswith("#")]
        if not of_file:
            raise ValueError(f"keys: {path} holds no key; must hold one a line, KEY or NAME:KEY")
        entries += of_file
    return Keys(entries)


class Access:
    """Lets through whoever has a key, and everybody to what is public. Sets `request.state.caller`.

    A middleware, as FastAPI reads a request's body before it asks any dependency.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.keys and not is_public(scope["path"]):
            caller = self.keys.caller(Headers(scope=scope).get("authorization", ""))
            if caller is None:
                await _refusal("authorization" in Headers(scope=scope)).response()(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)


def is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDERS)


def _refusal(sent: bool) -> ApiError:
    problem = "is none of this gateway's API keys" if sent else "is missing"
    message = f"Authorization: {problem}; must be 'Bearer KEY'"
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
