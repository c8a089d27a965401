"""Orders over HTTP. Greenlets share a caller; connections are kept, one for each order in flight."""

from __future__ import annotations

import base64
import json
from typing import Any

import gevent
import tritonclient.http
import urllib3
from geventhttpclient.response import HTTPParseError
from tritonclient.utils import InferenceServerException

from fluxclient import ConnectionFailed, DeadlineExceeded
from fluxclient.errors import error_from
from fluxclient.transport.address import Address
from loadtest.sending.answer import Answer, unreadable
from loadtest.sending.settings import Settings
from loadtest.sending.tensors import answer_of, infer_inputs
from loadtest.traffic.order import Order

MAX_CONNECTIONS = 4096

_GATEWAY_CODES = {"invalid_value": "INVALID_ARGUMENT", "internal_error": "INTERNAL", "model_not_ready": "UNAVAILABLE"}
"""OpenAI's names of errors, where they are not ours in lower case."""


class InferCaller:
    """Plain infer of the façade with binary tensors, by tritonclient, which is made for gevent."""

    def __init__(self, settings: Settings) -> None:
        address = Address(settings.host)
        self._client: Any = tritonclient.http.InferenceServerClient(
            f"{address.target}{address.path}",
            ssl=address.scheme == "https",
            concurrency=MAX_CONNECTIONS,
            network_timeout=settings.timeout_s,
        )
        self._host = settings.host
        self._timeout_s = settings.timeout_s

    def send(self, order: Order) -> Answer:
        """Raises FluxError."""
        inputs = infer_inputs(tritonclient.http, order, self._timeout_s)
        try:
            return answer_of(self._client.infer("flux_unary", inputs))
        except InferenceServerException as error:
            raise error_from(str(error.message()), status=str(error.status())) from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer within {self._timeout_s:g} s", field="timeout") from error
        except (OSError, HTTPParseError) as error:
            raise ConnectionFailed(f"{self._host}: {error or type(error).__name__}", field="connection") from error

    def close(self) -> None:
        self._client.close()


class _JsonCaller:
    """Posts JSON and reads JSON."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._pool = urllib3.PoolManager(maxsize=MAX_CONNECTIONS, retries=False)

    def close(self) -> None:
        self._pool.clear()

    def _post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and object. Raises FluxError if none came."""
        try:
            with gevent.Timeout(self._timeout_s, TimeoutError):
                response = self._pool.request("POST", self._url, json=body, timeout=self._timeout_s)
        except (TimeoutError, urllib3.exceptions.ReadTimeoutError) as error:
            raise DeadlineExceeded(f"no answer within {self._timeout_s:g} s", field="timeout") from error
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionFailed(f"{self._url}: {error}", field="connection") from error
        try:
            answer = json.loads(response.data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            said = response.data[:200].decode(errors="replace")
            raise error_from(f"no JSON object but {said!r}", status=str(response.status))
        return response.status, answer


class GenerateCaller(_JsonCaller):
    """Triton's `generate`: one answer, at the end."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(f"{settings.host}/v2/models/{settings.model}/generate", settings.timeout_s)

    def send(self, order: Order) -> Answer:
        """Raises FluxError."""
        status, answer = self._post(order.inputs(self._timeout_s))
        if status != 200 or "error" in answer:
            raise error_from(str(answer.get("error", "")), status=str(status))
        try:
            file = base64.b64decode(answer["image"], validate=True)
            return Answer(file, int(answer["seed"]), json.loads(answer["info"]))
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable(error) from error


class OpenAICaller(_JsonCaller):
    """The gateway's `/v1/images/generations`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(f"{settings.gateway_url}/v1/images/generations", settings.timeout_s)

    def send(self, order: Order) -> Answer:
        """Raises FluxError."""
        body = order.inputs(self._timeout_s)
        body["size"] = f"{body.pop('width')}x{body.pop('height')}"
        status, answer = self._post(body)
        if status != 200:
            raise _gateway_error(status, answer)
        try:
            file = base64.b64decode(answer["data"][0]["b64_json"], validate=True)
            return Answer(file, int(answer["seeds"][0]), dict(answer["info"]))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise unreadable(error) from error


def _gateway_error(status: int, answer: dict[str, Any]) -> Exception:
    said = answer.get("error")
    if not isinstance(said, dict):
        return error_from(str(said or ""), status=str(status))
    name = str(said.get("code"))
    code = _GATEWAY_CODES.get(name, name.upper())
    return error_from(f"FLUX_{code}: {said.get('param') or 'gateway'}: {said.get('message')}", status=str(status))
