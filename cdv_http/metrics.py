"""The Prometheus metrics: counters, histograms and gauges, declared and observed (rendered in metrics_exporter.py).

With several workers each writes its counts into files of a common folder (`PROMETHEUS_MULTIPROC_DIR`, set by
`cdv_http/cli.py` before this is imported), and the worker that is scraped adds them up. Label values come from fixed
sets: route templates, methods, statuses, error codes and collections of the catalogue, never from a client's input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from cdv_adapters.service import BackgroundTask
from cdv_core.errors import CdvError
from cdv_core.use_cases.relay import RelayOutcome

if TYPE_CHECKING:
    from cdv_http.completed_requests import CompletedRequest

# The latency targets of 200 and 300 ms are buckets; below them, where the service should be, buckets are finer.
_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1, 2.5, 5, 10, 30),
)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "PATCH"})

registry: Final = CollectorRegistry()


def _counter(name: str, what: str, *labels: str) -> Counter:
    return Counter(name, what, labels, registry=registry)


def _live(name: str, what: str, *labels: str, mode: str = "livesum") -> Gauge:
    """Make a gauge of each worker's own state, aggregated over the live workers."""
    return Gauge(name, what, labels, multiprocess_mode=mode, registry=registry)  # type: ignore[arg-type]


def _common(name: str, what: str, *labels: str) -> Gauge:
    """Make a gauge of a value that all workers share: the most recent reading counts."""
    return Gauge(name, what, labels, multiprocess_mode="mostrecent", registry=registry)


requests_total = _counter("cdv_requests", "Requests completed", "route", "method", "status")
request_seconds = Histogram(
    "cdv_request_seconds", "Time from the head of a request to the end of its response", ["route", "method"],
    buckets=_SECONDS, registry=registry,
)  # fmt: skip
errors_total = _counter("cdv_errors", "Requests refused or failed", "route", "code")
in_flight = _live("cdv_requests_in_flight", "Requests in flight")
shed_total = _counter("cdv_requests_shed", "Requests shed with 503 because too many were in flight")
rate_limited_total = _counter("cdv_rate_limited", "Requests refused because a rate limit was used up", "budget")
schema_rejects_total = _counter("cdv_schema_rejects", "Records refused because they break their schema", "collection")
media_total = _counter("cdv_media", "Steps of uploads, by result", "step", "outcome")

background_tasks_total = _counter("cdv_background_tasks", "Runs of background tasks", "task", "outcome")
background_removals_total = _counter("cdv_background_removals", "Items removed by background tasks", "task")


def observe_background_task(task: BackgroundTask, outcome: str, removed: int) -> None:
    """Count a run of a background task, and the items it removed."""
    background_tasks_total.labels(task.name, outcome).inc()
    background_removals_total.labels(task.name).inc(removed)


relay_runs_total = _counter("cdv_relay_runs", "Runs of the relay, by result", "outcome")
published_total = _counter("cdv_events_published", "Events acknowledged by a stream")
requeued_total = _counter("cdv_events_requeued", "Events that a stream had lost and that are published again")
backlog = _common("cdv_oplog_backlog", "Events waiting to be published, counted up to 100,000")
backlog_seconds = _common("cdv_oplog_oldest_seconds", "Age of the oldest waiting event")
stream_differences = _live(
    "cdv_stream_differences", "Stream settings that differ from the configured ones", mode="livemax"
)

pool_connections = _live("cdv_database_connections", "Connections in the pool", "state")
pool_max = _live("cdv_database_connections_max", "Largest number of connections that the pool may have")
pool_waiting = _live("cdv_database_waiting", "Requests waiting for a connection")
pool_waits_total = _counter("cdv_database_waits", "Times a connection was waited for")
pool_wait_seconds_total = _counter("cdv_database_wait_seconds", "Time spent waiting for connections")
pool_failures_total = _counter("cdv_database_wait_failures", "Times no connection became free in time")

issuer_fetches_total = _counter("cdv_issuer_fetches", "Fetches of the issuer's keys")
issuer_failures_total = _counter("cdv_issuer_fetch_failures", "Fetches of the issuer's keys that failed")
issuer_keys_seconds = _live("cdv_issuer_keys_age_seconds", "Time since the issuer's keys were fetched", mode="livemax")
issuer_failing = _live("cdv_issuer_failing", "1 if the last fetch of the issuer's keys failed", mode="livemax")

catalogue_generated = _live(
    "cdv_catalogue_generated_timestamp_seconds",
    "When the catalogue in use was generated: its generatedAt",
    mode="livemax",
)
catalogue_collections = _live("cdv_catalogue_collections", "Collections in the catalogue in use", mode="livemax")
catalogue_failing = _live("cdv_catalogue_failing", "1 if the last refresh failed or was refused", mode="livemax")
catalogue_refreshes_total = _counter("cdv_catalogue_refreshes", "Refreshes of the catalogue from its source")
catalogue_failures_total = _counter("cdv_catalogue_refresh_failures", "Refreshes that failed")
catalogue_refusals_total = _counter("cdv_catalogue_refusals", "Refreshes whose catalogue was refused")

certificate_expiry = _live(
    "cdv_tls_certificate_expiry_timestamp_seconds", "When the certificate in use expires", mode="livemax"
)
dependency_up = _common("cdv_dependency_up", "1 if the dependency answers in time", "dependency")

# By the names of the adapters' readings: gauges are set to the value read, counters increase to it.
GAUGES: Final[dict[str, Gauge]] = {
    "requests_in_flight": in_flight,
    "connections_used": pool_connections.labels("used"),
    "connections_idle": pool_connections.labels("idle"),
    "connections_max": pool_max,
    "connections_waited_for": pool_waiting,
    "stream_differences": stream_differences,
    "issuer_keys_age_seconds": issuer_keys_seconds,
    "issuer_failing": issuer_failing,
    "catalogue_generated": catalogue_generated,
    "catalogue_collections": catalogue_collections,
    "catalogue_failing": catalogue_failing,
    "certificate_expiry": certificate_expiry,
}
COUNTERS: Final[dict[str, Counter]] = {
    "connection_waits": pool_waits_total,
    "connection_wait_seconds": pool_wait_seconds_total,
    "connection_wait_failures": pool_failures_total,
    "issuer_fetches": issuer_fetches_total,
    "issuer_failures": issuer_failures_total,
    "catalogue_refreshes": catalogue_refreshes_total,
    "catalogue_failures": catalogue_failures_total,
    "catalogue_refusals": catalogue_refusals_total,
}


def observe_requests(requests: Iterable[CompletedRequest]) -> None:
    """Count completed requests and their latencies."""
    numbers: dict[Counter, int] = {}
    for it in requests:
        count, latency = _of_request(it.route, it.method if it.method in METHODS else "other", it.status)
        numbers[count] = numbers.get(count, 0) + 1
        latency.observe(it.seconds)
        if it.error_code is not None:
            errors_total.labels(it.route, it.error_code).inc()
    for count, number in numbers.items():  # each call takes a lock
        count.inc(number)


def observe_shed(by_method: Mapping[str, int]) -> None:
    """Count shed requests. Their latency is not recorded: it would hide that of the others."""
    for method, number in by_method.items():
        for counter in (shed_total, *_counters_of_shed(method)):
            counter.inc(number)


@cache
def _counters_of_shed(method: str) -> tuple[Counter, Counter]:
    return requests_total.labels("unmatched", method, "503"), errors_total.labels("unmatched", "CDV_UNAVAILABLE")


@cache  # one entry per time series
def _of_request(route: str, method: str, status: int) -> tuple[Counter, Histogram]:
    return requests_total.labels(route, method, str(status)), request_seconds.labels(route, method)


@contextmanager
def counting_media(step: str) -> Iterator[None]:
    """Count the outcome of the block, which is one step of an upload."""
    try:
        yield
    except CdvError as error:
        media_total.labels(step, error.code).inc()
        raise
    media_total.labels(step, "done").inc()


def observe_relay(outcome: RelayOutcome | None) -> None:
    """Count the outcome of a run of the relay; None: it failed."""
    relay_runs_total.labels(_outcome_label(outcome)).inc()
    if outcome is not None:
        published_total.inc(outcome.published)
        for comparison in outcome.comparisons:
            requeued_total.inc(comparison.requeued)


def _outcome_label(outcome: RelayOutcome | None) -> str:
    if outcome is None:
        return "failed"
    if not outcome.leased:
        return "elsewhere"
    if outcome.comparisons:
        return "repaired"
    if outcome.waiting:
        return "incomplete"
    return "published" if outcome.published else "idle"
