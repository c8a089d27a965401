"""What the gateway counts, for Prometheus. No label holds anything that a caller makes up."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """In a registry of its own: a process may hold several gateways."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "flux_gateway_requests",
            "Answered requests; status 499: the caller left",
            ("route", "status"),
            registry=self.registry,
        )
        self.in_flight = Gauge("flux_gateway_requests_in_flight", "Requests that wait", registry=self.registry)
        self.seconds = Histogram(
            "flux_gateway_request_seconds",
            "From a request to the end of its answer",
            ("route",),
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.images = Counter("flux_gateway_images", "Pictures handed out, or kept for a job", registry=self.registry)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
