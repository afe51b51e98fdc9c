"""Measurements in Prometheus' form: of requests as they are answered, of the engine when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sigmafield.serve.engine import Engine
from sigmafield.serve.http.context import in_thread
from sigmafield.serve.http.errors import Handler

REGISTRY = web.AppKey("registry", CollectorRegistry)

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)


class EngineMetrics(Collector):
    """The engine's figures at the moment when they are asked for.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine):
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """The measurements."""
        figures = self._engine.figures()
        jobs = GaugeMetricFamily("sigmafield_jobs", "Jobs that are kept, by status", labels=["status"])
        for status, n in figures.counts.items():
            jobs.add_metric([status], n)
        yield jobs
        running = GaugeMetricFamily("sigmafield_running_jobs", "Jobs that have a thread", labels=["device"])
        for device, n in figures.running.items():
            running.add_metric([device], n)
        yield running


def registry_of(engine: Engine) -> CollectorRegistry:
    """A registry with the engine's figures."""
    registry = CollectorRegistry()
    registry.register(EngineMetrics(engine))
    return registry


def measured(registry: CollectorRegistry) -> Middleware:
    """The middleware that counts and times requests by route, method and status."""
    count = Counter(
        "sigmafield_http_requests", "Requests that were answered", ["method", "route", "status"], registry=registry
    )
    seconds = Histogram(
        "sigmafield_http_request_seconds", "Seconds until a request was answered", ["method", "route"],
        registry=registry, buckets=SECONDS,
    )  # fmt: skip

    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        began, status = time.perf_counter(), 500
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "none"
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            method = request.method if request.method in ("GET", "HEAD", "POST", "DELETE", "OPTIONS") else "other"
            count.labels(method, route, status).inc()
            seconds.labels(method, route).observe(time.perf_counter() - began)

    return measure


async def show(request: web.Request) -> web.Response:
    """All measurements."""
    encode, kind = choose_encoder(request.headers.get("Accept", ""))
    body = await in_thread(encode, request.app[REGISTRY])
    return web.Response(body=body, headers={"Content-Type": kind})
