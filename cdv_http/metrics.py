"""What a monitor may know of the service, in Prometheus's text form; right with several workers.

With several workers each writes its counts into files of a common folder (`PROMETHEUS_MULTIPROC_DIR`, set by
`cdv_http/server.py` before any of them starts), and whichever is asked adds them up. Label values are ours: route
templates, methods, statuses and codes of the contract, never what a client sent.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client import multiprocess as shared

from cdv_adapters.service import Service
from cdv_core.errors import CdvError
from cdv_core.use_cases.outbox import Outcome

# Around the promises of 200 and 300 ms, and finer below, where the service should be.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2.5, 5, 10, 30)

registry: Final = CollectorRegistry()

requests_total = Counter("cdv_requests", "Requests answered", ["route", "method", "status"], registry=registry)
request_seconds = Histogram(
    "cdv_request_seconds", "Time from a request's head to its answer's end", ["route", "method"], buckets=_SECONDS,
    registry=registry,
)  # fmt: skip
errors_total = Counter("cdv_errors", "Requests refused or failed", ["route", "code"], registry=registry)
in_flight = Gauge("cdv_requests_in_flight", "Requests under way", multiprocess_mode="livesum", registry=registry)
shed_total = Counter(
    "cdv_requests_shed", "Requests turned away at once because too many were under way", registry=registry
)
rate_limited_total = Counter("cdv_rate_limited", "Requests over a budget", ["budget"], registry=registry)
schema_rejects_total = Counter(
    "cdv_schema_rejects", "Records that break their schema", ["collection"], registry=registry
)
media_total = Counter("cdv_media", "Media assets announced and finalised", ["outcome"], registry=registry)
chores_total = Counter("cdv_chores", "Background work done", ["chore", "outcome"], registry=registry)
published_total = Counter("cdv_events_published", "Events acknowledged by a stream", registry=registry)
requeued_total = Counter(
    "cdv_events_requeued", "Events that a stream had lost, to be published again", registry=registry
)
relay_failures_total = Counter(
    "cdv_relay_incomplete_runs", "Relay runs that left something unacknowledged", registry=registry
)
backlog = Gauge(
    "cdv_oplog_backlog", "Events that wait to be published", multiprocess_mode="mostrecent", registry=registry
)
backlog_seconds = Gauge(
    "cdv_oplog_oldest_seconds", "Age of the oldest event that waits", multiprocess_mode="mostrecent", registry=registry
)
pool_connections = Gauge(
    "cdv_database_connections", "Connections of the pool", ["state"], multiprocess_mode="livesum", registry=registry
)
pool_waiting = Gauge(
    "cdv_database_waiting", "Requests waiting for a connection", multiprocess_mode="livesum", registry=registry
)
issuer_keys_seconds = Gauge(
    "cdv_issuer_keys_age_seconds",
    "Time since the issuer's keys were fetched",
    multiprocess_mode="max",
    registry=registry,
)
issuer_failing = Gauge(
    "cdv_issuer_failing", "1 if the issuer did not answer the last time", multiprocess_mode="max", registry=registry
)
catalogue_generated = Gauge(
    "cdv_catalogue_generated_timestamp_seconds", "When the catalogue in force was made", multiprocess_mode="min",
    registry=registry,
)  # fmt: skip
catalogue_failing = Gauge(
    "cdv_catalogue_failing", "1 if the last refresh failed or was refused", multiprocess_mode="max", registry=registry
)
dependency_up = Gauge(
    "cdv_dependency_up", "1 if the dependency answers", ["dependency"], multiprocess_mode="min", registry=registry
)


def observe_request(route: str, method: str, status: int, seconds: float, error_code: str | None) -> None:
    """Count a request that has been answered."""
    requests_total.labels(route, method, str(status)).inc()
    request_seconds.labels(route, method).observe(seconds)
    if error_code is not None:
        errors_total.labels(route, error_code).inc()


def observe_relay(outcome: Outcome) -> None:
    """Count what a run of the relay did."""
    published_total.inc(outcome.published)
    if outcome.waiting:
        relay_failures_total.inc()
    for comparison in outcome.comparisons:
        requeued_total.inc(comparison.requeued)


async def exposition(service: Service) -> bytes:
    """Return all metrics, those of states read now."""
    await _read_states(service)
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(registry)
    together = CollectorRegistry()
    shared.MultiProcessCollector(together)  # type: ignore[no-untyped-call]
    return generate_latest(together)


async def _read_states(service: Service) -> None:
    now = service.clock.now()
    for dependency in service.dependencies:
        try:
            await dependency.check()
        except CdvError:
            dependency_up.labels(dependency.name).set(0)
        else:
            dependency_up.labels(dependency.name).set(1)
    for reading in service.readings:
        for name, value in reading().items():
            _GAUGES[name].set(value)
    # With the database down the last reading stays, and cdv_dependency_up says so.
    with suppress(CdvError):
        waiting = await service.outbox.backlog()
        backlog.set(waiting.count)
        backlog_seconds.set(0 if waiting.oldest_at is None else (now - waiting.oldest_at).total_seconds())


# By the names that adapters give their readings.
_GAUGES: Final[dict[str, Gauge]] = {
    "connections_used": pool_connections.labels("used"),
    "connections_idle": pool_connections.labels("idle"),
    "connections_waited_for": pool_waiting,
    "issuer_keys_age_seconds": issuer_keys_seconds,
    "issuer_failing": issuer_failing,
    "catalogue_generated": catalogue_generated,
    "catalogue_failing": catalogue_failing,
}
