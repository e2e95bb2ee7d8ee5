"""What a scrape gets: the counts, and the states as they are now.

What needs no I/O each worker reads every few seconds, so that whichever is scraped speaks for all. What does (is the
database there, how much waits) is looked at when somebody scrapes, within a bound: a monitor that gives up on a service
in trouble would see nothing just then.
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
from cdv_http.looks import LOOK_SECONDS, DependencyLooks
from cdv_http.metrics import (
    COUNTERS,
    GAUGES,
    backlog,
    backlog_seconds,
    chores_total,
    dependency_up,
    registry,
    relay_runs_total,
)

_READ_EVERY_SECONDS: Final = 5.0  # ours: what is read costs microseconds


class States:
    """The states of one worker, read while the block runs. `dependencies`: whether they are up."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counted: dict[str, float] = {}
        self._looking_at_backlog: asyncio.Task[None] | None = None
        self.dependencies = DependencyLooks(service.dependencies)

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read_again_and_again(), name="metrics")
        # A rate needs a first value: without it the first failure of all would be no increase.
        for chore in self._service.chores:
            for outcome in ("done", "put off", "failed"):
                chores_total.labels(chore.name, outcome)
        if self._service.relay is not None:
            for outcome in ("idle", "published", "incomplete", "repaired", "elsewhere", "failed"):
                relay_runs_total.labels(outcome)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.dependencies.close()
        for task in (self._reading, self._looking_at_backlog):
            if task is not None:
                await cancel_and_wait(task)

    async def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text form, within LOOK_SECONDS and a moment, whatever hangs."""
        self.read()
        await self._look()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(registry)
        folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
        _forget_the_dead(folder)
        together = CollectorRegistry()
        together.register(_AllWorkers(folder))
        return generate_latest(together)

    def read(self) -> None:
        """Read what needs no I/O."""
        for reading in self._service.readings:
            for name, value in reading().items():
                if name in GAUGES:
                    GAUGES[name].set(value)
                else:
                    COUNTERS[name].inc(value - self._counted.get(name, 0))
                    self._counted[name] = value

    async def _read_again_and_again(self) -> None:
        while True:
            self.read()
            await asyncio.sleep(_READ_EVERY_SECONDS)

    async def _look(self) -> None:
        """Look at everything at once. What was not seen in time is taken for down; its look goes on by itself."""
        if self._looking_at_backlog is None or self._looking_at_backlog.done():
            self._looking_at_backlog = asyncio.create_task(self._look_at_backlog(), name="look at the backlog")
        up, _ = await asyncio.gather(
            self.dependencies.up(), asyncio.wait([self._looking_at_backlog], timeout=LOOK_SECONDS)
        )
        for name, is_up in up.items():
            dependency_up.labels(name).set(is_up)

    async def _look_at_backlog(self) -> None:
        try:
            waiting = await self._service.outbox.backlog()
        except CdvError:
            return  # with the database down the last reading stays, and cdv_dependency_up says so
        except Exception:  # noqa: BLE001 - a defect here must not hide the other metrics
            logger.exception("the backlog cannot be read")
            return
        backlog.set(waiting.count)
        now = self._service.clock.now()
        backlog_seconds.set(0 if waiting.oldest_at is None else (now - waiting.oldest_at).total_seconds())


class _AllWorkers(Collector):
    """What all workers count, added up from their files: as the library's own collector, but for new files.

    A worker that starts makes each of its files empty, and the library fails over one that it finds so.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        begun = [str(file) for file in self._folder.glob("*.db") if _size(file)]
        metrics: Iterable[Metric] = shared.MultiProcessCollector.merge(begun)  # type: ignore[no-untyped-call]
        return metrics


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # of a worker that has ended, another scrape has just dropped it
        return 0


def _forget_the_dead(folder: Path) -> None:
    """Drop the gauges of workers that have ended, or their requests in flight would be counted for ever."""
    for pid in {int(file.stem.rpartition("_")[2]) for file in folder.glob("gauge_live*_*.db")}:
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, PermissionError):  # there is none, or it is another user's, who has its number now
            with suppress(FileNotFoundError):  # another worker is being scraped at this moment
                shared.mark_process_dead(pid)  # type: ignore[no-untyped-call]
