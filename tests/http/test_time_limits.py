"""Time limits of requests: one timer for all tasks, and a deadline for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import pytest

from cdv_http.admission import Admission
from cdv_http.client_address import ClientAddresses
from cdv_http.middleware.cors import AllowedOrigins
from cdv_http.middleware.edge import EdgeMiddleware
from cdv_http.middleware.time_limits import TimeLimits
from cdv_http.request_state import begin_state


class FrozenLoop:
    """The clock and the timers of a loop, which move only when advanced."""

    def __init__(self) -> None:
        self.now = 100.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object:
        self._due.append((self.now + delay, callback))
        return self._due[-1]

    async def advance(self, seconds: float) -> None:
        """Call the callbacks that become due, each at its time, and run every task until it waits."""
        await run_tasks()
        until = self.now + seconds
        while self._due and (first := min(self._due, key=itemgetter(0)))[0] <= until:
            self._due.remove(first)
            self.now = first[0]
            first[1]()
            await run_tasks()
        self.now = until
        await run_tasks()

    def limits(self, seconds: float) -> TimeLimits:
        return TimeLimits(seconds, lambda: self)


async def run_tasks() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def loop() -> FrozenLoop:
    return FrozenLoop()


async def limited(limits: TimeLimits, *moves: asyncio.Event) -> str:
    """Wait for the events in turn, restarting the limit after each; return the outcome."""
    task = limits.start()
    try:
        for move in moves:
            await move.wait()
            limits.restart(task)
    except asyncio.CancelledError:
        if not limits.timed_out(task):
            raise
        return "over"
    finally:
        limits.stop(task)
    return "done"


async def outcome(task: asyncio.Task[str]) -> str:
    return await task if task.done() else "under way"


async def test_each_task_has_its_own_time_limit(loop: FrozenLoop) -> None:
    limits, never, at_10, at_25 = loop.limits(20), asyncio.Event(), asyncio.Event(), asyncio.Event()
    still, short, moving = (
        asyncio.create_task(limited(limits, *moves)) for moves in ([never], [at_10], [at_10, never])
    )
    await loop.advance(10)
    later = asyncio.create_task(limited(limits, at_25))
    at_10.set()
    await loop.advance(9)
    assert [await outcome(task) for task in (still, short, moving, later)] == [
        "under way",
        "done",
        "under way",
        "under way",
    ]
    await loop.advance(1)
    assert [await outcome(task) for task in (still, moving, later)] == ["over", "under way", "under way"]
    await loop.advance(5)
    at_25.set()
    await loop.advance(4)
    assert [await outcome(task) for task in (moving, later)] == ["under way", "done"]
    await loop.advance(1)
    assert await outcome(moving) == "over"


async def test_a_task_that_makes_progress_may_exceed_the_limit(loop: FrozenLoop) -> None:
    moves = [asyncio.Event() for _ in range(3)]
    task = asyncio.create_task(limited(loop.limits(20), *moves))
    for move in moves:
        await loop.advance(19)
        move.set()
    await run_tasks()
    assert await outcome(task) == "done"


async def test_the_timer_is_set_again_after_an_idle_period(loop: FrozenLoop) -> None:
    limits = loop.limits(20)
    for _ in range(2):
        task = asyncio.create_task(limited(limits, asyncio.Event()))
        await loop.advance(20)
        assert await outcome(task) == "over"
        await loop.advance(100)


async def test_a_task_over_the_limit_is_cancelled_once_and_may_still_respond(loop: FrozenLoop) -> None:
    limits, read = loop.limits(20), asyncio.Event()

    async def refusing() -> str:
        task = limits.start()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert limits.timed_out(task)
            await read.wait()  # a slow client reads the refusal
        finally:
            limits.stop(task)
        return "refused"

    first = asyncio.create_task(refusing())
    await loop.advance(8)
    later = asyncio.create_task(limited(limits, asyncio.Event()))
    await loop.advance(60)
    assert [await outcome(task) for task in (first, later)] == ["under way", "over"]
    read.set()
    await run_tasks()
    assert await outcome(first) == "refused"


async def test_a_cancellation_from_elsewhere_is_propagated(loop: FrozenLoop) -> None:
    task = asyncio.create_task(limited(loop.limits(20), asyncio.Event()))
    await run_tasks()
    task.cancel()
    await run_tasks()
    with pytest.raises(asyncio.CancelledError):
        await outcome(task)


async def test_a_simultaneous_cancellation_from_elsewhere_is_propagated(loop: FrozenLoop) -> None:
    limits = loop.limits(20)
    ended: list[bool] = []

    async def both() -> str:
        task = limits.start()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task.cancel()  # before the cause of the first is checked
            ended.append(limits.timed_out(task))
            raise
        finally:
            limits.stop(task)
        return "done"

    task = asyncio.create_task(both())
    await loop.advance(20)
    with pytest.raises(asyncio.CancelledError):
        await outcome(task)
    assert ended == [False]


async def waits_for_the_body(_: Any, receive: Any, __: Any) -> None:
    await receive()


async def refuses_at_once(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 400, "headers": []})


async def takes_its_own_time(_: Any, receive: Any, __: Any) -> None:
    await asyncio.create_task(receive())
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("app", "sends", "status"),
    [(waits_for_the_body, False, 400), (refuses_at_once, False, 400), (takes_its_own_time, True, 503)],
)
async def test_a_client_that_sends_no_body_in_time_is_refused_without_reading_again(
    loop: FrozenLoop, app: Any, sends: bool, status: int
) -> None:
    received, sent = [], []

    async def receive() -> Any:
        received.append("for the body")
        if not sends:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": b"", "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-length", b"10")]
    scope: Any = {"type": "http", "method": "POST", "path": "/v1/repo/record", "scheme": "http", "headers": headers}
    scope["http_version"] = "1.1"
    begin_state(scope)
    edge = EdgeMiddleware(app, Admission(4), ClientAddresses(()), AllowedOrigins(()), loop.limits(20))
    exchange = asyncio.create_task(edge(scope, receive, send))
    await loop.advance(19)
    assert not exchange.done()
    await loop.advance(1)
    assert exchange.done()
    await exchange
    assert received == ["for the body"]
    assert [message.get("status") for message in sent] == [status, None]
