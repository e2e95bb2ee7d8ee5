"""What a scrape gets: the counts, and the states as they are now.

What needs no I/O each worker reads every few seconds, so that whichever is scraped speaks for all. What does (is the
database there, how much waits) is looked at when somebody scrapes, within a bound: a monitor that gives up on a service
in trouble would see nothing just then.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Self

from loguru import logger
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client import multiprocess as shared
from prometheus_client.registry import Collector

from cdv_adapters.cancellation import cancel_and_wait
from cdv_adapters.service import Dependency, Service
from cdv_core.errors import CdvError
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
LOOK_SECONDS: Final = 2.0  # ours: a fraction of Prometheus's default patience of 10 s


class States:
    """The states of one worker, read while the block runs."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._counted: dict[str, float] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}

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
        await asyncio.gather(*map(cancel_and_wait, [self._reading, *self._looks.values()]))

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
        for dependency in self._service.dependencies:
            self._begin(dependency.name, partial(_look_at, dependency))
        self._begin("backlog", self._look_at_backlog)
        await asyncio.wait(self._looks.values(), timeout=LOOK_SECONDS)
        for dependency in self._service.dependencies:
            if dependency.name in self._looks:
                dependency_up.labels(dependency.name).set(0)

    def _begin(self, name: str, look: Callable[[], Awaitable[None]]) -> None:
        async def looking() -> None:
            try:
                await look()
            except Exception:  # noqa: BLE001 - a defect in one look must not hide the other metrics
                logger.exception("the state of {} cannot be read", name)
            finally:
                del self._looks[name]

        if name not in self._looks:
            self._looks[name] = asyncio.create_task(looking(), name=f"look at {name}")

    async def _look_at_backlog(self) -> None:
        # With the database down the last reading stays, and cdv_dependency_up says so.
        with suppress(CdvError):
            waiting = await self._service.outbox.backlog()
            backlog.set(waiting.count)
            now = self._service.clock.now()
            backlog_seconds.set(0 if waiting.oldest_at is None else (now - waiting.oldest_at).total_seconds())


async def _look_at(dependency: Dependency) -> None:
    try:
        await dependency.check()
    except CdvError:
        dependency_up.labels(dependency.name).set(0)
    else:
        dependency_up.labels(dependency.name).set(1)


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
