"""Time limits of requests: for uploads and chunked responses, of the time without progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

_Task = asyncio.Task[Any]


class Timer(Protocol):
    """The methods of the event loop that are used."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object: ...


class TimeLimits:
    """Cancels tasks that take too long. All have the same limit, so the oldest expires first and one timer is enough.

    One timer per task, as asyncio.timeout sets it, costs 7 % of a create (docs/adr/012-fewer-instructions.md).
    """

    def __init__(self, seconds: float, running_loop: Callable[[], Timer] = asyncio.get_running_loop) -> None:
        self.seconds = seconds
        self._running_loop = running_loop
        self._started: dict[_Task, float] = {}  # by the loop's clock, the oldest first
        self._expired: set[_Task] = set()
        self._timer: object | None = None

    def start(self) -> _Task:
        """Start the time limit of the calling task and return the task. `stop` ends it."""
        task = asyncio.current_task()
        assert task is not None, "called by a coroutine"  # noqa: S101
        self._started[task] = self._now()
        if self._timer is None:
            self._set_timer(self.seconds)
        return task

    def restart(self, task: _Task) -> None:
        """Restart the time limit of a task, unless it has expired already."""
        if self._started.pop(task, None) is not None:
            self._started[task] = self._now()

    def expire(self, task: _Task) -> None:
        """End a task as if its time were up, unless it is."""
        if self._started.pop(task, None) is not None:
            self._expired.add(task)
            task.cancel()

    def stop(self, task: _Task) -> None:
        self._started.pop(task, None)
        self._expired.discard(task)

    def timed_out(self, task: _Task) -> bool:
        """Return whether the time limit is the only reason of the CancelledError caught; if so, uncancel the task."""
        return task in self._expired and task.uncancel() == 0

    def _now(self) -> float:
        return self._running_loop().time()

    def _set_timer(self, seconds: float) -> None:
        self._timer = self._running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._timer = None
        latest = self._now() - self.seconds
        for task, started in list(self._started.items()):
            if started > latest:
                self._set_timer(started - latest)
                break
            del self._started[task]
            self._expired.add(task)
            task.cancel()
