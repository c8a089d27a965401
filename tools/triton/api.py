"""The part of Triton's HTTP API that a launcher needs: readiness, the model repository, configurations."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from tools.triton.control_key import HEADER

JSON = dict[str, Any]


@dataclass(frozen=True)
class Urls:
    """Where to reach a server."""

    http: str  # http://host:port
    grpc: str  # grpc://host:port
    metrics: str  # http://host:port/metrics


class ApiError(RuntimeError):
    """Triton refused, or could not be reached. The message is Triton's."""


class NoAnswer(ApiError):
    """Nothing came within the time."""


class TritonApi:
    """Holds no connection, so any thread may use it. The repository wants the control key where there is one."""

    def __init__(self, host: str, port: int, control_key: str | None = None) -> None:
        self.host = host
        self.port = port
        self.control_key = control_key
        self._headers = {HEADER: control_key} if control_key else {}

    def ready(self, model: str | None = None) -> bool:
        """Whether the server, or one model of it, says that it is ready. Never raises."""
        try:
            self._call("GET", f"/v2/models/{model}/ready" if model else "/v2/health/ready", timeout_s=5)
        except ApiError:
            return False
        return True

    def version(self) -> str:
        """The server's release, as in "2.51.0"."""
        version: str = self._call("GET", "/v2")["version"]
        return version

    def index(self) -> list[JSON]:
        """Every model in the repository: name, and for those once loaded version, state and reason."""
        index: list[JSON] = self._call("POST", "/v2/repository/index", {}, timeout_s=5)
        return index

    def configuration(self, model: str) -> JSON:
        """The configuration that a loaded model runs with, in a form that `load` takes."""
        configuration: JSON = self._call("GET", f"/v2/models/{model}/config", timeout_s=5)
        return configuration

    def load(self, model: str, configuration: JSON | None, timeout_s: float) -> None:
        """Loads a model and waits until it serves; with a configuration, that one in place of its file."""
        body = {"parameters": {"config": json.dumps(configuration)}} if configuration is not None else {}
        self._call("POST", f"/v2/repository/models/{model}/load", body, timeout_s)

    def unload(self, model: str, timeout_s: float) -> None:
        """Tells Triton to unload a model. Returns before the requests in flight are done."""
        self._call("POST", f"/v2/repository/models/{model}/unload", {}, timeout_s)

    def generate(self, model: str, inputs: JSON, timeout_s: float) -> JSON:
        """What a model answers to a request by the name of its inputs. Raises NoAnswer, or ApiError with its error."""
        answer: JSON = self._call("POST", f"/v2/models/{model}/generate", inputs, timeout_s)
        return answer

    def _call(self, method: str, path: str, body: JSON | None = None, timeout_s: float = 5) -> Any:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, self._headers)
            response = connection.getresponse()
            status, text = response.status, response.read().decode(errors="replace")
        except TimeoutError as error:
            raise NoAnswer(f"{method} {path}: no answer within {timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(f"{method} {path}: {error}") from error
        finally:
            connection.close()
        try:
            answer = json.loads(text) if text else {}
        except ValueError:
            answer = {"error": text}
        if status != 200:
            raise ApiError(answer.get("error", text) or f"{method} {path}: status {status}")
        return answer
