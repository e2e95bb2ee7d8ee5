"""Combines concurrent requests into one statement: those that arrive while a statement runs go into the next one.

Each request still gets a result or an error of its own. docs/adr/011-group-commit.md says why.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from cdv_adapters.tracing import is_recorded
from cdv_core.errors import Unavailable

Request = TypeVar("Request")
Result = TypeVar("Result")

# ours: while one group waits for the disk, the next is computed; more would only make the groups smaller
MAX_CONCURRENT_BATCHES: Final = 2
_QUIET_ROUNDS: Final = 3  # ours: event loop iterations, enough for a request that is being received to arrive


@dataclass(slots=True)
class _Pending(Generic[Request, Result]):
    request: Request
    result: asyncio.Future[Result]
    context: Context
    is_recorded: bool


class Batcher(Generic[Request, Result]):
    """Executes requests in groups. A request that arrives alone waits only for those already in the event loop.

    `execute`: returns the results in the order of the requests, or raises for all of them. `new_group()` is called once
    per group and returns a predicate that says whether the next request may join it. The first always may; a rejected
    request waits for the next group. `retry_individually_after(error)`: whether to retry each request alone when a
    whole group failed; only for reads.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[Request]], Awaitable[Sequence[Result]]],
        new_group: Callable[[], Callable[[Request], bool]],
        *,
        max_batch_size: int,
        retry_individually_after: Callable[[Unavailable], bool] = lambda _: False,
    ) -> None:
        self._retry_individually_after = retry_individually_after
        self._execute = execute
        self._new_group = new_group
        self._max_batch_size = max_batch_size
        self._pending: deque[_Pending[Request, Result]] = deque()
        self._running: set[asyncio.Task[None] | None] = set()
        self._is_collecting = False

    async def submit(self, request: Request) -> Result:
        """Return the request's result. Cancelling the call does not affect the other requests of its group.

        Raises: what `execute` raises: Unavailable for every request of the group; any other error only for the request
        that caused it.
        """
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(request, result, copy_context(), is_recorded()))
        self._start()
        return await result

    def _start(self) -> None:
        if self._pending and not self._is_collecting and len(self._running) < MAX_CONCURRENT_BATCHES:
            self._is_collecting = True
            context = self._pending[0].context
            self._running.add(asyncio.create_task(self._run_batch(context), name="batch", context=context))

    async def _run_batch(self, own_context: Context) -> None:
        try:
            try:
                await self._wait_for_more()
            finally:
                self._is_collecting = False
            group = self._next_group()
            self._start()  # requests that this group rejected need not wait until it is done
            if group:  # empty if every caller was cancelled
                # Logs and traces are attributed to one caller: the first whose trace is recorded, otherwise the first.
                context = next((it.context for it in group if it.is_recorded), group[0].context)
                work = self._settle([it.request for it in group], [it.result for it in group])
                await (work if context is own_context else asyncio.create_task(work, context=context))
        finally:
            self._running.discard(asyncio.current_task())
        # No await since the task was discarded: a request that arrives now must start the next batch.
        self._start()

    async def _wait_for_more(self) -> None:
        """Return when a full group is pending, or when no request has arrived for some iterations of the event loop.

        An iteration takes as long as the event loop is busy, so this takes next to no time on an idle one.
        """
        quiet_rounds = 0
        while quiet_rounds < _QUIET_ROUNDS and len(self._pending) < self._max_batch_size:
            pending = len(self._pending)
            await asyncio.sleep(0)
            quiet_rounds = 0 if len(self._pending) > pending else quiet_rounds + 1

    def _next_group(self) -> list[_Pending[Request, Result]]:
        """Take a group from the front of the queue; rejected requests keep their position in it."""
        group: list[_Pending[Request, Result]] = []
        rejected: list[_Pending[Request, Result]] = []
        may_join = self._new_group()
        while self._pending and len(group) < self._max_batch_size and len(rejected) < self._max_batch_size:
            pending = self._pending.popleft()
            if not pending.result.cancelled():
                (group if may_join(pending.request) else rejected).append(pending)
        self._pending.extendleft(reversed(rejected))
        return group

    async def _settle(self, requests: Sequence[Request], futures: Sequence[asyncio.Future[Result]]) -> None:
        """Execute the requests and set the result or the exception of each future that was not cancelled."""
        try:
            results = await self._execute(requests)
        except Unavailable as error:
            if len(requests) > 1 and self._retry_individually_after(error):
                alone = (self._settle([request], [future]) for request, future in zip(requests, futures, strict=True))
                await asyncio.gather(*alone)
                return
            # A write may or may not have been committed, so only callers with idempotency keys can safely retry it.
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        except Exception as error:  # noqa: BLE001 - passed on to the caller whose request caused it
            # The database rejected the whole statement without naming the request at fault: execute each one alone.
            if len(requests) > 1:
                for one in range(len(requests)):
                    await self._settle(requests[one : one + 1], futures[one : one + 1])
            elif not futures[0].done():
                futures[0].set_exception(error)
        else:
            for future, result in zip(futures, results, strict=True):
                if not future.done():
                    future.set_result(result)
