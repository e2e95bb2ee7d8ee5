"""The content of /metrics: counters, and gauges that are read from the service's components.

Gauges that need no I/O are read every few seconds by each worker, so that any worker can answer a scrape for all of
them. Those that need I/O (whether the dependencies are up, the outbox's backlog) are read during the scrape, within a
time limit: a scrape that times out would lose all metrics just when the service is in trouble.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from loguru import logger
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client import multiprocess as shared
from prometheus_client.registry import Collector

from cdv_adapters.cancellation import cancel_and_wait
from cdv_adapters.service import Service
from cdv_core.errors import CdvError
from cdv_http.dependency_checks import CHECK_TIMEOUT_SECONDS, DependencyChecks
from cdv_http.metrics import (
    COUNTERS,
    GAUGES,
    background_tasks_total,
    backlog,
    backlog_seconds,
    dependency_up,
    registry,
    relay_runs_total,
)

_READ_INTERVAL_SECONDS: Final = 5.0  # ours: a reading takes microseconds


class MetricsExporter:
    """Reads one worker's gauges while the block runs, and renders all metrics."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._exported: dict[str, float] = {}
        self._backlog_task: asyncio.Task[None] | None = None
        self.dependencies = DependencyChecks(service.dependencies)

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read_periodically(), name="metrics")
        # Initialise the series to 0: without a first value, a rate would miss the first failure.
        for task in self._service.background_tasks:
            for outcome in ("done", "postponed", "failed"):
                background_tasks_total.labels(task.name, outcome)
        if self._service.relay is not None:
            for outcome in ("idle", "published", "incomplete", "repaired", "elsewhere", "failed"):
                relay_runs_total.labels(outcome)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.dependencies.close()
        for task in (self._reader, self._backlog_task):
            if task is not None:
                await cancel_and_wait(task)

    async def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format, within little more than CHECK_TIMEOUT_SECONDS."""
        self.read()
        await self._check_dependencies()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(registry)
        folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        _drop_dead_workers(folder)
        together = CollectorRegistry()
        together.register(_AllWorkers(folder))
        return generate_latest(together)

    def read(self) -> None:
        """Update the metrics that need no I/O."""
        for reading in self._service.readings:
            for name, value in reading().items():
                if name in GAUGES:
                    GAUGES[name].set(value)
                else:
                    COUNTERS[name].inc(value - self._exported.get(name, 0))
                    self._exported[name] = value

    async def _read_periodically(self) -> None:
        while True:
            self.read()
            await asyncio.sleep(_READ_INTERVAL_SECONDS)

    async def _check_dependencies(self) -> None:
        """Check all dependencies and the backlog concurrently; one that does not answer in time counts as down."""
        if self._backlog_task is None or self._backlog_task.done():
            self._backlog_task = asyncio.create_task(self._read_backlog(), name="read the backlog")
        up, _ = await asyncio.gather(
            self.dependencies.statuses(), asyncio.wait([self._backlog_task], timeout=CHECK_TIMEOUT_SECONDS)
        )
        for name, is_up in up.items():
            dependency_up.labels(name).set(is_up)

    async def _read_backlog(self) -> None:
        try:
            waiting = await self._service.outbox.backlog()
        except CdvError:
            return  # while the database is down, the last reading stays, and cdv_dependency_up is 0
        except Exception:  # noqa: BLE001 - a defect here must not hide the other metrics
            logger.exception("reading the backlog failed")
            return
        backlog.set(waiting.count)
        now = self._service.clock.now()
        backlog_seconds.set(0 if waiting.oldest_at is None else (now - waiting.oldest_at).total_seconds())


class _AllWorkers(Collector):
    """Aggregates the metrics of all workers from their files, like the library's own collector, but skips empty files.

    A starting worker creates its files empty, and the library's collector fails on those.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        nonempty = [str(file) for file in self._folder.glob("*.db") if _size(file)]
        metrics: Iterable[Metric] = shared.MultiProcessCollector.merge(nonempty)  # type: ignore[no-untyped-call]
        return metrics


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # of a worker that has ended: a concurrent scrape has just removed it
        return 0


def _drop_dead_workers(folder: Path) -> None:
    """Delete the gauges of workers that have ended: their requests in flight would otherwise be counted for ever."""
    for pid in {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*_*.db")}:
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError):  # it has ended; its pid may belong to another user's process now
            with suppress(FileNotFoundError):  # a concurrent scrape of another worker has removed it
                shared.mark_process_dead(pid)  # type: ignore[no-untyped-call]
