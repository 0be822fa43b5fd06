"""What a server counts, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tabwright.serving.registry import ModelRegistry

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class ServerMetrics:
    """The counters of one server.

    Labels are routes and names of models that the server has, never what a client sent: their
    number is bounded.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, registry: ModelRegistry) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tabwright_requests",
            "Requests answered.",
            ("route", "model", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "tabwright_request_seconds",
            "Seconds from the first byte of a request for predictions to its answer.",
            ("route", "model"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        failures = Gauge(
            "tabwright_failed_reloads",
            "Replaced model files that did not load since the start.",
            registry=self._registry,
        )
        failures.set_function(lambda: registry.n_failures)

    def count(self, route: str, model: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, model, str(status)).inc()
        if model:
            self._seconds.labels(route, model).observe(seconds)

    def text(self) -> bytes:
        """All of them as they are now."""
        return generate_latest(self._registry)
