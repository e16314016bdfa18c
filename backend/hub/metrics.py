"""The metrics of one hub process; docs/metrics.md shows them. Served as Prometheus text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PREFIX: Final = "drivefs_hub_"


class HubMetrics:
    """See the module. asyncio's thread."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry: Final = CollectorRegistry()
        self.requests: Final = self._counter(
            "requests", "requests that were answered", "method", "route", "status"
        )
        self.seconds: Final = Histogram(
            f"{PREFIX}request_seconds",
            "from a request's head to the end of its answer",
            ["route"],
            registry=self.registry,
        )
        self.received: Final = self._counter("received_bytes", "bodies of requests")
        self.sent: Final = self._counter("sent_bytes", "bodies of answers")
        self.open: Final = Gauge(
            f"{PREFIX}open_requests", "requests under way, those that wait too", registry=self.registry
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, meaning, labels, registry=self.registry)

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """One more gauge, whose value is asked for when it is shown."""
        Gauge(PREFIX + name, meaning, registry=self.registry).set_function(value)

    def routes(self) -> list[Route]:
        """`/metrics`."""
        return [Route("/metrics", self._show)]

    async def _show(self, _request: Request) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
