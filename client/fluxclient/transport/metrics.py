"""The server's metrics, which it has on a port of their own."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request

from fluxclient.errors import ConnectionFailed


def fetch_metrics(url: str, timeout_s: float) -> str:
    """Triton's metrics in Prometheus' text format. Raises ConnectionFailed."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            text: str = response.read().decode()
            return text
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        problem = f"{url}: {reason}; metrics_url says where the server's metrics are"
        raise ConnectionFailed(problem, field="metrics") from error
