"""The relay on fakes: order, no duplicates, crashes at any call, and concurrent relays."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdv_core.errors import Unavailable
from cdv_core.use_cases.relay import RelayOutcome
from tests.core.relaying import ADA, BOB, MEDIA, Harness, drain, run_until_crash


async def test_committed_entries_are_published_in_op_log_order_and_marked_as_published():
    harness = Harness()
    written = [harness.write(ADA), harness.write(BOB), harness.write(ADA)]
    media = harness.write(ADA, MEDIA)
    assert await drain(harness.relay()) == [RelayOutcome(leased=True, published=4)]
    assert harness.bus.ids("RA_RECORDS") == written
    assert harness.bus.ids("RA_MEDIA") == [media]
    assert [entry.stream_sequence for entry in harness.outbox.entries.values()] == [1, 2, 3, 1]
    assert {entry.published_at for entry in harness.outbox.entries.values()} == {harness.clock.now()}


async def test_no_entry_is_published_twice():
    harness = Harness()
    written = [harness.write(), harness.write()]
    relay = harness.relay()
    await drain(relay)
    assert await drain(relay) == [RelayOutcome(leased=True)]
    assert harness.bus.ids() == written


async def test_a_full_batch_reports_more():
    harness = Harness()
    written = [harness.write() for _ in range(5)]
    outcomes = await drain(harness.relay(batch_entries=2))
    assert [(outcome.published, outcome.more) for outcome in outcomes] == [(2, True), (2, True), (1, False)]
    assert harness.bus.ids() == written


async def test_an_entry_that_commits_late_is_published():
    harness = Harness()
    late, early = harness.write(ADA), harness.write(BOB)
    hidden = harness.outbox.entries.pop(1)
    await drain(harness.relay())
    harness.outbox.entries = {1: hidden, **harness.outbox.entries}
    await drain(harness.relay())
    assert harness.bus.ids() == [early, late]


async def test_a_refused_entry_blocks_only_later_entries_of_its_did():
    harness = Harness()
    first, other, second = harness.write(ADA), harness.write(BOB), harness.write(ADA)
    harness.bus.refused = {first}
    assert await drain(harness.relay()) == [RelayOutcome(leased=True, published=1, waiting=2)]
    assert harness.bus.ids() == [other]
    harness.bus.refused = set()
    await drain(harness.relay())
    assert harness.bus.ids() == [other, first, second]


async def test_an_entry_whose_acknowledgement_was_lost_is_not_published_again():
    harness = Harness()
    written = [harness.write(), harness.write()]
    harness.bus.lost_acknowledgements = set(written)
    relay = harness.relay()
    assert await relay.run_once() == RelayOutcome(leased=True, waiting=2)
    # Longer than the duplicate window, so that the stream itself would accept duplicates.
    harness.clock.advance(3600)
    await drain(relay)
    assert harness.bus.ids() == written
    assert [entry.stream_sequence for entry in harness.outbox.entries.values()] == [1, 2]


async def test_nothing_is_published_to_a_stream_that_has_changed_since_it_was_read():
    harness = Harness()
    first, second = harness.write(ADA), harness.write(ADA)

    async def meanwhile() -> None:
        await harness.bus.publish([harness.outbox.entries[1]], await harness.bus.streams())

    harness.bus.before_publish = meanwhile
    assert await drain(harness.relay()) == [RelayOutcome(leased=True, waiting=2)]
    await drain(harness.relay())
    assert harness.bus.ids() == [first, second]


async def test_a_relay_without_the_lease_does_nothing():
    harness = Harness()
    harness.write()
    one, other = harness.relay(), harness.relay()
    other_outcomes = []

    async def meanwhile() -> None:
        other_outcomes.append(await other.run_once())

    harness.bus.before_publish = meanwhile
    assert await one.run_once() == RelayOutcome(leased=True, published=1)
    assert other_outcomes == [RelayOutcome(leased=False)]


async def test_two_relays_in_turn_publish_everything_once_and_in_order():
    harness = Harness()
    one, other = harness.relay(batch_entries=3), harness.relay(batch_entries=2)
    written = []
    for _ in range(10):
        written += [harness.write(ADA), harness.write(BOB)]
        await one.run_once()
        await other.run_once()
    await drain(one)
    assert harness.bus.ids() == written


async def test_the_lease_is_released_when_the_bus_is_down():
    harness = Harness()
    harness.write()
    harness.bus.down = True
    with pytest.raises(Unavailable):
        await harness.relay().run_once()
    harness.bus.down = False
    assert await harness.relay().run_once() == RelayOutcome(leased=True, published=1)


async def test_a_relay_that_has_lost_its_lease_marks_nothing_as_published():
    harness = Harness()
    written = harness.write()
    slow, quick = harness.relay(), harness.relay()

    async def overtake() -> None:
        harness.clock.advance(3600)
        harness.bus.recreate()
        later = harness.clock.now() + timedelta(seconds=10)
        await harness.outbox.lease("quick", 0, now=harness.clock.now(), expires_at=later)

    harness.bus.after_publish = overtake
    assert await slow.run_once() == RelayOutcome(leased=False)
    assert harness.outbox.entries[1].stream_sequence is None
    harness.clock.advance(10)
    await drain(quick)
    assert harness.bus.ids() == [written]


@given(
    crash_steps=st.lists(st.integers(0, 30), max_size=6),
    writers=st.lists(st.sampled_from([(ADA, "record"), (BOB, "record"), (ADA, MEDIA)]), min_size=1, max_size=12),
    pause=st.sampled_from([1, 16, 600]),
    batch_entries=st.integers(1, 5),
)
async def test_a_crash_at_any_call_loses_duplicates_and_reorders_nothing(crash_steps, writers, pause, batch_entries):
    harness = Harness()
    for steps in crash_steps:
        for did, kind in writers:
            harness.write(did, MEDIA) if kind == MEDIA else harness.write(did)
        await run_until_crash(harness, steps, batch_entries=batch_entries)
        harness.clock.advance(pause)
    harness.clock.advance(16)
    await drain(harness.relay())
    committed = list(harness.outbox.entries.values())
    for name, prefix in (("RA_RECORDS", "cdv.records."), ("RA_MEDIA", "cdv.media.")):
        assert harness.bus.ids(name) == [it.event.event_id for it in committed if it.event.subject.startswith(prefix)]
    assert all(entry.stream_sequence for entry in committed)
