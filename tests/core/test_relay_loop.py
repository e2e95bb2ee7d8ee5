"""The relay's loop: it wakes on a write, rests when idle, backs off in trouble, and goes on whatever happens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cdv_core.errors import Unavailable
from cdv_core.use_cases.reconciliation import Comparison
from cdv_core.use_cases.relay import Relay, RelayOutcome
from cdv_http.relay import Pace, relaying
from tests.core.relaying import Setting

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


def counting(setting: Setting, *failures: Exception) -> CountingRelay:
    relay = CountingRelay(setting.outbox, setting.bus, setting.clock, setting.ids)
    relay.failures = list(failures)
    return relay


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def long_enough_to_do_something() -> None:
    for _ in range(200):
        await asyncio.sleep(0)


def rests_of_new_tasks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have relays that begin from now on rest for no time; return the list that their rests are noted in."""
    sleep, others, slept = asyncio.sleep, asyncio.all_tasks(), []

    async def noted(seconds: float) -> None:
        if asyncio.current_task() in others:  # the test, and a vault of other tests, in this loop too
            await sleep(seconds)
            return
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("cdv_http.relay.asyncio.sleep", noted)
    return slept


async def test_what_waits_at_the_start_is_published():
    setting = Setting()
    written = [setting.write()]
    async with relaying(setting.relay(), pace=SLEEPY):
        await until(lambda: setting.bus.ids() == written)


async def test_a_write_wakes_it():
    setting = Setting()
    relay = counting(setting)
    async with relaying(relay, pace=SLEEPY) as wake:
        await until(lambda: relay.runs == 1)
        await long_enough_to_do_something()
        written = [setting.write()]
        wake()
        await until(lambda: setting.bus.ids() == written)


async def test_a_write_during_a_run_is_not_missed():
    setting = Setting()
    setting.write()
    async with relaying(setting.relay(), pace=SLEEPY) as wake:

        async def meanwhile() -> None:
            setting.write()
            wake()

        setting.bus.after_publish = meanwhile
        await until(lambda: len(setting.bus.ids()) == 2)


async def test_it_looks_by_itself_now_and_then():
    setting = Setting()
    relay = counting(setting)
    async with relaying(relay, pace=QUICK):
        await until(lambda: relay.runs > 3)
        written = [setting.write()]
        await until(lambda: setting.bus.ids() == written)


async def test_while_the_bus_is_down_writes_do_not_wake_it():
    setting = Setting()
    setting.bus.down = True
    relay = counting(setting)
    async with relaying(relay, pace=SLEEPY) as wake:
        await until(lambda: relay.runs == 1)
        for _ in range(10):
            setting.write()
            wake()
            await long_enough_to_do_something()
    assert relay.runs == 1


async def test_it_goes_on_after_trouble_and_after_defects():
    setting = Setting()
    relay = counting(setting, Unavailable("database"), ValueError("a defect"), Unavailable("events"))
    written = [setting.write()]
    async with relaying(relay, pace=QUICK):
        await until(lambda: setting.bus.ids() == written)


async def test_pauses_grow_up_to_a_limit_and_shrink_after_a_success(monkeypatch):
    setting = Setting()
    down = Unavailable("events")
    relay = counting(setting, down, down, down, down, down)
    slept = rests_of_new_tasks(monkeypatch)
    setting.write()
    pace = Pace(idle_seconds=NEVER, gather_seconds=7, first_pause_seconds=1, last_pause_seconds=4)
    async with relaying(relay, pace=pace) as wake:
        await until(lambda: 7 in slept)
        relay.failures = [down]
        wake()
        await until(lambda: len(slept) >= 7)
    assert slept[:7] == [1, 2, 4, 4, 4, 7, 1]


async def test_under_load_it_gathers_for_longer(monkeypatch):
    setting = Setting()
    slept = rests_of_new_tasks(monkeypatch)
    pace = Pace(idle_seconds=NEVER, gather_seconds=1, gather_many_seconds=5)
    async with relaying(setting.relay(batch_entries=20), pace=pace) as wake:
        # Few; many; and twice a full batch, after which there is more to do at once.
        for writes, rests in ((15, [1]), (16, [5]), (45, [1, 1, 1])):
            slept.clear()
            for _ in range(writes):
                setting.write()
            wake()
            await long_enough_to_do_something()
            assert slept == rests


async def test_every_outcome_is_observed():
    setting = Setting()
    relay = setting.relay()
    setting.write()
    await relay.run_once()
    setting.bus.recreate()
    seen: list[RelayOutcome | None] = []
    async with relaying(relay, observe=seen.append, pace=QUICK):
        await until(lambda: len(seen) >= 3)
    comparison = Comparison("RA_RECORDS", compared=1, requeued=1)
    assert seen[:3] == [
        RelayOutcome(leased=True, more=True, comparisons=(comparison,)),
        RelayOutcome(leased=True, published=1),
        RelayOutcome(leased=True),
    ]


async def test_when_it_is_stopped_in_the_middle_the_lease_is_free():
    setting = Setting()
    written = [setting.write()]
    publishing = asyncio.Event()

    async def for_ever() -> None:
        publishing.set()
        await asyncio.Event().wait()

    setting.bus.before_publish = for_ever
    async with relaying(setting.relay(), pace=SLEEPY):
        await publishing.wait()
    assert await setting.relay().run_once() == RelayOutcome(leased=True, published=1)
    assert setting.bus.ids() == written


async def test_it_stops_also_when_a_cancellation_is_dropped():
    setting = Setting()
    publishing, dropped = asyncio.Event(), asyncio.Event()

    async def deaf() -> None:
        publishing.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            dropped.set()  # as asyncio.wait_for may do in Python 3.11

    setting.bus.before_publish = deaf
    setting.write()
    async with asyncio.timeout(30), relaying(setting.relay(), pace=SLEEPY):
        await publishing.wait()
    assert dropped.is_set()
