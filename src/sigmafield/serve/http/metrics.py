"""Measurements in Prometheus' form: of requests as they are answered, of the engine when they are asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sigmafield.serve.engine import Engine
from sigmafield.serve.figures import DeviceFigures
from sigmafield.serve.http.context import in_thread
from sigmafield.serve.http.errors import Handler
from sigmafield.serve.http.middleware import Middleware
from sigmafield.serve.jobs import JobRecord

REGISTRY = web.AppKey("registry", CollectorRegistry)

ROWS = (1, 2, 4, 8, 16, 32, 64)
"""Upper bounds of the histogram of rows per call."""

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
        yield gauge("sigmafield_jobs", "Jobs that are kept, by status", "status", figures.counts)
        yield GaugeMetricFamily(
            "sigmafield_queue_length", "Jobs that wait for their turn", value=figures.counts["queued"]
        )
        yield _summary(figures.step_seconds)
        if figures.memory is not None:
            yield GaugeMetricFamily("sigmafield_memory_bytes", "Memory of the process", value=figures.memory)
        yield from of_devices(figures.devices)


def of_devices(devices: Sequence[DeviceFigures]) -> Iterator[Metric]:
    """The measurements of the devices; two pools on one device have different numbers."""
    named = {f"{k}:{device.name}": device for k, device in enumerate(devices)}
    batches = {name: device.batch for name, device in named.items()}
    running = {name: device.running for name, device in named.items()}
    yield gauge("sigmafield_running_jobs", "Jobs that are stepped", "device", running)
    memory = {name: device.memory for name, device in named.items() if device.memory is not None}
    yield gauge("sigmafield_device_memory_bytes", "Tensors on the device", "device", memory)
    calls = {name: batch.calls for name, batch in batches.items()}
    rows = {name: batch.rows for name, batch in batches.items()}
    yield counter("sigmafield_network_calls", "Network calls", calls)
    yield counter("sigmafield_network_rows", "Rows of network calls that were asked for", rows)
    seconds = {name: batch.seconds for name, batch in batches.items()}
    yield counter("sigmafield_network_seconds", "Seconds in network calls", seconds)
    waits = {name: batch.waits for name, batch in batches.items()}
    yield counter("sigmafield_overdue_calls", "Network calls that waited for a run in vain", waits)
    halvings = {name: batch.halvings for name, batch in batches.items()}
    yield counter("sigmafield_memory_halvings", "Times that rows were halved because memory did not suffice", halvings)
    efficiency = {name: rows[name] / calls[name] for name in named if calls[name]}
    yield gauge("sigmafield_batch_efficiency", "Rows in a network call, on average", "device", efficiency)
    per_call = HistogramMetricFamily("sigmafield_rows_per_call", "Rows of one network call", labels=["device"])
    for name, batch in batches.items():
        per_call.add_metric([name], *_buckets(batch.by_rows))
    yield per_call


def gauge(name: str, about: str, label: str, values: Mapping[Any, float]) -> Metric:
    """A gauge with a value for each of some things."""
    made = GaugeMetricFamily(name, about, labels=[label])
    for key, value in values.items():
        made.add_metric([key], value)
    return made


def counter(name: str, about: str, values: Mapping[str, float]) -> Metric:
    """A counter with a value for each device."""
    made = CounterMetricFamily(name, about, labels=["device"])
    for key, value in values.items():
        made.add_metric([key], value)
    return made


def _buckets(by_rows: Mapping[int, int]) -> tuple[list[tuple[str, float]], float]:
    """(cumulative numbers of calls by their most rows, the sum of all rows)."""
    bounds = [(str(bound), sum(n for rows, n in by_rows.items() if rows <= bound)) for bound in ROWS]
    return [*bounds, ("+Inf", sum(by_rows.values()))], sum(rows * n for rows, n in by_rows.items())


def _summary(seconds: Sequence[float]) -> Metric:
    """Quantiles of the seconds of the latest steps."""
    made = GaugeMetricFamily("sigmafield_step_seconds", "Seconds of the latest steps", labels=["quantile"])
    ordered = sorted(seconds)
    for quantile in (0.5, 0.99):
        if ordered:
            made.add_metric([str(quantile)], ordered[min(int(quantile * len(ordered)), len(ordered) - 1)])
    return made


def registry_of(engine: Engine) -> CollectorRegistry:
    """A registry with the engine's figures."""
    registry = CollectorRegistry()
    registry.register(EngineMetrics(engine))
    return registry


def job_times(registry: CollectorRegistry) -> Callable[[JobRecord], None]:
    """Notes how long a job that has ended has waited and has taken."""
    buckets = (*SECONDS, 1200, 3600)
    waited = Histogram("sigmafield_job_wait_seconds", "From submission to start", registry=registry, buckets=buckets)
    took = Histogram(
        "sigmafield_job_seconds", "From submission to end", ["kind", "status"], registry=registry, buckets=buckets
    )

    def note(record: JobRecord) -> None:  # a clock that is set back meanwhile gives no seconds below 0
        if record.started is not None:
            waited.observe(max(0.0, record.started - record.created))
        if record.ended is not None:
            took.labels(record.kind, record.status).observe(max(0.0, record.ended - record.created))

    return note


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
