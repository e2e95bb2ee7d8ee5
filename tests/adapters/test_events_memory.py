"""What is specific to streams in memory, beyond the contract (conformance/ports/events.py)."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

from cdv_adapters.events.memory import MemoryEventBus
from cdv_core.ports.events import Acknowledged
from conformance.ports.events import an_entry, ids_of
from tests.fakes.clock import FakeClock


async def publish(bus: MemoryEventBus, *numbers: int) -> list[Acknowledged | None]:
    return await bus.publish([an_entry(number) for number in numbers], await bus.streams())


async def test_a_duplicate_id_is_detected_for_two_minutes():
    clock = FakeClock()
    bus = MemoryEventBus(clock)
    await publish(bus, 1)
    clock.advance(119)
    assert await publish(bus, 1) == [Acknowledged(1, duplicate=True)]
    clock.advance(1)
    assert await publish(bus, 1) == [Acknowledged(2)]


async def test_a_full_stream_drops_its_oldest_messages_and_reports_complete_since():
    clock = FakeClock()
    bus = MemoryEventBus(clock, max_messages=2)
    opened_at = clock.now()
    await publish(bus, 1, 2)
    (state, _) = await bus.streams()
    assert (state.first_sequence, state.messages, state.complete_since) == (1, 2, opened_at)
    clock.advance(60)
    await publish(bus, 3)
    clock.advance(60)
    await publish(bus, 4)
    (state, _) = await bus.streams()
    assert (state.first_sequence, state.last_sequence, state.messages, state.gaps) == (3, 4, 2, 0)
    assert state.complete_since == opened_at
    assert [sequence for sequence, _ in await ids_of(bus)] == [3, 4]


async def test_message_ids_include_the_time_stored():
    clock = FakeClock()
    bus = MemoryEventBus(clock)
    await publish(bus, 1)
    stored_at = clock.now()
    clock.advance(60)
    (state, _) = await bus.streams()
    async with aclosing(bus.message_ids(state)) as ids:
        assert [item async for item in ids] == [(1, an_entry(1).event.event_id, stored_at)]


async def test_a_follower_receives_existing_messages_and_then_new_ones():
    bus = MemoryEventBus(FakeClock())
    await publish(bus, 1, 2)
    async with asyncio.timeout(30), aclosing(bus.follow("RA_RECORDS", after=1)) as messages:
        message = await anext(messages)
        assert (message.sequence, message.event) == (2, an_entry(2).event)
        coming = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        await publish(bus, 3, 4)
        assert [(await coming).sequence, (await anext(messages)).sequence] == [3, 4]


async def test_a_follower_that_fell_behind_receives_a_gap_in_the_sequences():
    bus = MemoryEventBus(FakeClock(), max_messages=2)
    await publish(bus, 1)
    async with asyncio.timeout(30), aclosing(bus.follow("RA_RECORDS")) as messages:
        assert (await anext(messages)).sequence == 1
        await publish(bus, 2, 3, 4)
        assert [(await anext(messages)).sequence for _ in range(2)] == [3, 4]


async def test_two_buses_have_different_incarnations():
    one, other = MemoryEventBus(FakeClock()), MemoryEventBus(FakeClock())
    assert (await one.streams())[0].created != (await other.streams())[0].created


async def test_publishing_to_another_incarnation_is_refused():
    bus = MemoryEventBus(FakeClock())
    states = [replace(state, created="another") for state in await bus.streams()]
    assert await bus.publish([an_entry(1)], states) == [None]
