"""How long requests may take: of media, how long they may stand still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

_Task = asyncio.Task[Any]


class Timer(Protocol):
    """What is asked of the running loop."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object: ...


class TimeLimits:
    """Ends tasks that take too long. They all may take as long, so the oldest is the first, and one timer does for all.

    A timer for each, as asyncio.timeout sets it, costs 7 % of a create (docs/adr/012-fewer-instructions.md).
    """

    def __init__(self, seconds: float, running_loop: Callable[[], Timer] = asyncio.get_running_loop) -> None:
        self.seconds = seconds
        self._running_loop = running_loop
        self._began: dict[_Task, float] = {}  # by the loop's clock, the oldest first
        self._over: set[_Task] = set()
        self._timer: object | None = None

    def begin(self) -> _Task:
        """Limit the task that calls this, which is returned, until `end`."""
        task = asyncio.current_task()
        assert task is not None, "a coroutine calls this"  # noqa: S101
        self._began[task] = self._now()
        if self._timer is None:
            self._wait(self.seconds)
        return task

    def begin_again(self, task: _Task) -> None:
        """Let it take as long again from now on, unless it was over the limit already."""
        if self._began.pop(task, None) is not None:
            self._began[task] = self._now()

    def end(self, task: _Task) -> None:
        self._began.pop(task, None)
        self._over.discard(task)

    def ended(self, task: _Task) -> bool:
        """Say whether the cancellation that `task` has caught is ours alone; it is then taken back."""
        return task in self._over and task.uncancel() == 0

    def _now(self) -> float:
        return self._running_loop().time()

    def _wait(self, seconds: float) -> None:
        self._timer = self._running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        latest = self._now() - self.seconds
        for task, began in list(self._began.items()):
            if began > latest:
                self._wait(began - latest)
                break
            del self._began[task]
            self._over.add(task)
            task.cancel()
