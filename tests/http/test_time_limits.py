"""How long requests may take: one timer, and each task's end its own."""

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


class StillLoop:
    """The clock of a loop and what is due by it, which stand still until told."""

    def __init__(self) -> None:
        self.now = 100.0
        self._due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None], /) -> object:
        self._due.append((self.now + delay, callback))
        return self._due[-1]

    async def advance(self, seconds: float) -> None:
        """Call what becomes due, each in its moment, and let every task go on until it waits."""
        await turns()
        until = self.now + seconds
        while self._due and (first := min(self._due, key=itemgetter(0)))[0] <= until:
            self._due.remove(first)
            self.now = first[0]
            first[1]()
            await turns()
        self.now = until
        await turns()

    def limits(self, seconds: float) -> TimeLimits:
        return TimeLimits(seconds, lambda: self)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def loop() -> StillLoop:
    return StillLoop()


async def limited(limits: TimeLimits, *moves: asyncio.Event) -> str:
    """Wait for one after the other, moving in between; return what came of it."""
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


async def test_each_has_its_own_limit(loop: StillLoop) -> None:
    limits, never, at_10, at_25 = loop.limits(20), asyncio.Event(), asyncio.Event(), asyncio.Event()
    still, short, moving = (asyncio.create_task(limited(limits, *it)) for it in ([never], [at_10], [at_10, never]))
    await loop.advance(10)
    later = asyncio.create_task(limited(limits, at_25))
    at_10.set()
    await loop.advance(9)
    assert [await outcome(it) for it in (still, short, moving, later)] == [
        "under way",
        "done",
        "under way",
        "under way",
    ]
    await loop.advance(1)
    assert [await outcome(it) for it in (still, moving, later)] == ["over", "under way", "under way"]
    await loop.advance(5)
    at_25.set()
    await loop.advance(4)
    assert [await outcome(it) for it in (moving, later)] == ["under way", "done"]
    await loop.advance(1)
    assert await outcome(moving) == "over"


async def test_what_moves_may_go_on(loop: StillLoop) -> None:
    moves = [asyncio.Event() for _ in range(3)]
    task = asyncio.create_task(limited(loop.limits(20), *moves))
    for move in moves:
        await loop.advance(19)
        move.set()
    await turns()
    assert await outcome(task) == "done"


async def test_the_timer_is_set_again_after_a_rest(loop: StillLoop) -> None:
    limits = loop.limits(20)
    for _ in range(2):
        task = asyncio.create_task(limited(limits, asyncio.Event()))
        await loop.advance(20)
        assert await outcome(task) == "over"
        await loop.advance(100)


async def test_who_is_over_the_limit_is_told_once_and_may_say_so(loop: StillLoop) -> None:
    limits, read = loop.limits(20), asyncio.Event()

    async def refusing() -> str:
        task = limits.start()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert limits.timed_out(task)
            await read.wait()  # the refusal, by a client who is slow
        finally:
            limits.stop(task)
        return "refused"

    first = asyncio.create_task(refusing())
    await loop.advance(8)
    later = asyncio.create_task(limited(limits, asyncio.Event()))
    await loop.advance(60)
    assert [await outcome(it) for it in (first, later)] == ["under way", "over"]
    read.set()
    await turns()
    assert await outcome(first) == "refused"


async def test_anothers_cancellation_goes_on(loop: StillLoop) -> None:
    task = asyncio.create_task(limited(loop.limits(20), asyncio.Event()))
    await turns()
    task.cancel()
    await turns()
    with pytest.raises(asyncio.CancelledError):
        await outcome(task)


async def test_anothers_cancellation_in_the_same_moment_goes_on_too(loop: StillLoop) -> None:
    limits = loop.limits(20)
    ended: list[bool] = []

    async def both() -> str:
        task = limits.start()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task.cancel()  # before anybody has asked whose the first was
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
async def test_who_sends_no_body_in_time_is_refused_without_waiting_for_it_again(
    loop: StillLoop, app: Any, sends: bool, status: int
) -> None:
    asked, answered = [], []

    async def receive() -> Any:
        asked.append("for the body")
        if not sends:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": b"", "more_body": True}

    async def send(message: Any) -> None:
        answered.append(message)

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
    assert asked == ["for the body"]
    assert [message.get("status") for message in answered] == [status, None]
