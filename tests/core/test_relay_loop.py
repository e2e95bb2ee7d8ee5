"""The relay's loop: it wakes on a write, sleeps when idle, backs off on errors, and survives every exception."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cdv_core.errors import Unavailable
from cdv_core.use_cases.reconciliation import Comparison
from cdv_core.use_cases.relay import Relay, RelayOutcome
from cdv_http.relay import Pace, relaying
from tests.core.relaying import Harness

NEVER = 3600.0
QUICK = Pace(idle_seconds=0, gather_seconds=0, first_pause_seconds=0, last_pause_seconds=0)
SLEEPY = Pace(idle_seconds=NEVER, gather_seconds=0, first_pause_seconds=NEVER, last_pause_seconds=NEVER)


class CountingRelay(Relay):
    """`runs`: begun so far. `failures`: what the next runs raise, in order."""

    runs = 0
    failures: list[Exception]

    async def run_once(self) -> RelayOutcome:
        self.runs += 1
        if self.failures:
            raise self.failures.pop(0)
        return await super().run_once()


def counting(harness: Harness, *failures: Exception) -> CountingRelay:
    relay = CountingRelay(harness.outbox, harness.bus, harness.clock, harness.ids)
    relay.failures = list(failures)
    return relay


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def let_other_tasks_run() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


def record_sleeps_of_new_tasks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make tasks started from now on sleep for no time; return the list of the durations they requested."""
    sleep, others, slept = asyncio.sleep, asyncio.all_tasks(), []

    async def recorded(seconds: float) -> None:
        if asyncio.current_task() in others:  # the test, and a vault of other tests, in this loop too
            await sleep(seconds)
            return
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("cdv_http.relay.asyncio.sleep", recorded)
    return slept


async def test_entries_waiting_at_the_start_are_published():
    harness = Harness()
    written = [harness.write()]
    async with relaying(harness.relay(), pace=SLEEPY):
        await until(lambda: harness.bus.ids() == written)


async def test_a_write_wakes_the_loop():
    harness = Harness()
    relay = counting(harness)
    async with relaying(relay, pace=SLEEPY) as wake:
        await until(lambda: relay.runs == 1)
        await let_other_tasks_run()
        written = [harness.write()]
        wake()
        await until(lambda: harness.bus.ids() == written)


async def test_a_write_during_a_run_is_not_missed():
    harness = Harness()
    harness.write()
    async with relaying(harness.relay(), pace=SLEEPY) as wake:

        async def meanwhile() -> None:
            harness.write()
            wake()

        harness.bus.after_publish = meanwhile
        await until(lambda: len(harness.bus.ids()) == 2)


async def test_the_loop_polls_without_being_woken():
    harness = Harness()
    relay = counting(harness)
    async with relaying(relay, pace=QUICK):
        await until(lambda: relay.runs > 3)
        written = [harness.write()]
        await until(lambda: harness.bus.ids() == written)


async def test_writes_do_not_wake_the_loop_while_the_bus_is_down():
    harness = Harness()
    harness.bus.down = True
    relay = counting(harness)
    async with relaying(relay, pace=SLEEPY) as wake:
        await until(lambda: relay.runs == 1)
        for _ in range(10):
            harness.write()
            wake()
            await let_other_tasks_run()
    assert relay.runs == 1


async def test_the_loop_continues_after_outages_and_unexpected_exceptions():
    harness = Harness()
    relay = counting(harness, Unavailable("database"), ValueError("a defect"), Unavailable("events"))
    written = [harness.write()]
    async with relaying(relay, pace=QUICK):
        await until(lambda: harness.bus.ids() == written)


async def test_retry_pauses_double_up_to_a_limit_and_reset_after_a_success(monkeypatch):
    harness = Harness()
    down = Unavailable("events")
    relay = counting(harness, down, down, down, down, down)
    slept = record_sleeps_of_new_tasks(monkeypatch)
    harness.write()
    pace = Pace(idle_seconds=NEVER, gather_seconds=7, first_pause_seconds=1, last_pause_seconds=4)
    async with relaying(relay, pace=pace) as wake:
        await until(lambda: 7 in slept)
        relay.failures = [down]
        wake()
        await until(lambda: len(slept) >= 7)
    assert slept[:7] == [1, 2, 4, 4, 4, 7, 1]


async def test_the_loop_gathers_for_longer_after_many_writes(monkeypatch):
    harness = Harness()
    slept = record_sleeps_of_new_tasks(monkeypatch)
    pace = Pace(idle_seconds=NEVER, gather_seconds=1, gather_many_seconds=5)
    async with relaying(harness.relay(batch_entries=20), pace=pace) as wake:
        # Few; many; and twice a full batch, after which there is more to do at once.
        for writes, rests in ((15, [1]), (16, [5]), (45, [1, 1, 1])):
            slept.clear()
            for _ in range(writes):
                harness.write()
            wake()
            await let_other_tasks_run()
            assert slept == rests


async def test_every_outcome_is_observed():
    harness = Harness()
    relay = harness.relay()
    harness.write()
    await relay.run_once()
    harness.bus.recreate()
    observed: list[RelayOutcome | None] = []
    async with relaying(relay, observe=observed.append, pace=QUICK):
        await until(lambda: len(observed) >= 3)
    comparison = Comparison("RA_RECORDS", compared=1, requeued=1)
    assert observed[:3] == [
        RelayOutcome(leased=True, more=True, comparisons=(comparison,)),
        RelayOutcome(leased=True, published=1),
        RelayOutcome(leased=True),
    ]


async def test_stopping_the_loop_during_a_run_releases_the_lease():
    harness = Harness()
    written = [harness.write()]
    publishing = asyncio.Event()

    async def for_ever() -> None:
        publishing.set()
        await asyncio.Event().wait()

    harness.bus.before_publish = for_ever
    async with relaying(harness.relay(), pace=SLEEPY):
        await publishing.wait()
    assert await harness.relay().run_once() == RelayOutcome(leased=True, published=1)
    assert harness.bus.ids() == written


async def test_the_loop_stops_even_if_a_cancellation_is_swallowed():
    harness = Harness()
    publishing, swallowed = asyncio.Event(), asyncio.Event()

    async def swallow_cancellation() -> None:
        publishing.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()  # as asyncio.wait_for may do in Python 3.11

    harness.bus.before_publish = swallow_cancellation
    harness.write()
    async with asyncio.timeout(30), relaying(harness.relay(), pace=SLEEPY):
        await publishing.wait()
    assert swallowed.is_set()
