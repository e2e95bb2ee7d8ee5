"""How long requests may take: one timer, and each task's end its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cdv_http.admission import Admission
from cdv_http.client_address import ClientAddresses
from cdv_http.middleware.cors import AllowedOrigins
from cdv_http.middleware.edge import EdgeMiddleware
from cdv_http.middleware.time_limits import TimeLimits
from cdv_http.request_state import begin_state


async def limited(limits: TimeLimits, *waits: float) -> str:
    """Wait so long each time, moving in between; return what came of it."""
    task = limits.begin()
    try:
        for seconds in waits:
            await asyncio.sleep(seconds)
            limits.begin_again(task)
    except asyncio.CancelledError:
        if not limits.ended(task):
            raise
        return "over"
    finally:
        limits.end(task)
    return "done"


async def test_each_has_its_own_limit() -> None:
    limits = TimeLimits(0.2)

    async def later() -> str:
        await asyncio.sleep(0.1)
        return await limited(limits, 0.15)

    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(limited(limits, 60), later(), limited(limits, 0.1), limited(limits, 0.1, 60))
    assert list(outcomes) == ["over", "done", "done", "over"]


async def test_what_moves_may_go_on() -> None:
    assert await limited(TimeLimits(0.2), 0.12, 0.12, 0.12) == "done"


async def test_the_timer_is_set_again_after_a_rest() -> None:
    limits = TimeLimits(0.05)
    async with asyncio.timeout(5):
        assert await limited(limits, 60) == "over"
        await asyncio.sleep(0.1)
        assert await limited(limits, 60) == "over"


async def test_who_is_over_the_limit_is_told_once_and_may_say_so() -> None:
    limits = TimeLimits(0.05)

    async def refusing() -> str:
        task = limits.begin()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            assert limits.ended(task)
            await asyncio.sleep(0.2)  # the refusal, to a client who is slow
        finally:
            limits.end(task)
        return "refused"

    async def later() -> str:
        await asyncio.sleep(0.02)
        return await limited(limits, 60)

    async with asyncio.timeout(5):
        assert list(await asyncio.gather(refusing(), later())) == ["refused", "over"]


async def test_anothers_cancellation_goes_on() -> None:
    limits = TimeLimits(60)
    task = asyncio.create_task(limited(limits, 60))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_anothers_cancellation_in_the_same_moment_goes_on_too() -> None:
    limits = TimeLimits(0.02)
    ended: list[bool] = []

    async def both() -> None:
        task = limits.begin()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            task.cancel()  # before anybody has asked whose the first was
            ended.append(limits.ended(task))
            raise
        finally:
            limits.end(task)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(both())
    assert ended == [False]


async def waits_for_the_body(_: Any, receive: Any, __: Any) -> None:
    await receive()


async def refuses_at_once(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 400, "headers": []})


async def takes_its_own_time(_: Any, receive: Any, __: Any) -> None:
    await asyncio.create_task(receive())
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("app", "seconds", "status"),
    [(waits_for_the_body, 60, 400), (refuses_at_once, 60, 400), (takes_its_own_time, 0, 503)],
)
async def test_who_sends_no_body_in_time_is_refused_without_waiting_for_it_again(
    app: Any, seconds: float, status: int
) -> None:
    asked, answered = [], []

    async def receive() -> Any:
        asked.append("for the body")
        await asyncio.sleep(seconds)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def send(message: Any) -> None:
        answered.append(message)

    headers = [(b"content-length", b"10")]
    scope: Any = {"type": "http", "method": "POST", "path": "/v1/repo/record", "scheme": "http", "headers": headers}
    scope["http_version"] = "1.1"
    begin_state(scope)
    edge = EdgeMiddleware(app, Admission(4), ClientAddresses(()), AllowedOrigins(()), TimeLimits(0.05))
    async with asyncio.timeout(5):
        await edge(scope, receive, send)
    assert asked == ["for the body"]
    assert [message.get("status") for message in answered] == [status, None]
