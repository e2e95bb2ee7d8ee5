"""Streams that forget, on fakes: what was lost is published again, in order, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cdv_core.ports.outbox import OpLogEntry
from cdv_core.use_cases import reconciliation
from cdv_core.use_cases.reconciliation import Comparison
from cdv_core.use_cases.relay import Relay, RelayOutcome
from tests.core.relaying import ADA, BOB, MEDIA, Setting, drain
from tests.core.test_relay import Killed, Mortal
from tests.fakes.events import FakeEventBus

DAY = 86_400.0
WEEK = timedelta(days=7)
LOSSES: dict[str, Callable[[FakeEventBus], None]] = {
    "recreated": lambda bus: bus.recreate(),
    "rolled back": lambda bus: bus.roll_back(3),
    "purged": lambda bus: bus.purge(),
    "purged in part": lambda bus: bus.purge(keep=2),
    "first deleted": lambda bus: bus.delete(1),
    "some deleted": lambda bus: bus.delete(2, 4),
}
lost_everything = pytest.mark.parametrize("lose", [LOSSES["recreated"], LOSSES["purged"]], ids=["recreated", "purged"])
lost = pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES)


def requeued(outcomes: list[RelayOutcome]) -> int:
    return sum(comparison.requeued for outcome in outcomes for comparison in outcome.comparisons)


@lost
async def test_what_a_stream_has_lost_is_published_again_once(lose):
    setting = Setting()
    relay = setting.relay()
    written = [setting.write(did) for did in (ADA, BOB, ADA, ADA, BOB, ADA)]
    await drain(relay)
    lose(setting.bus)
    gone = set(written) - set(setting.bus.ids())
    outcomes = await drain(relay)
    assert sorted(setting.bus.ids()) == sorted(written)
    assert requeued(outcomes) == len(gone) > 0
    assert await drain(relay) == [RelayOutcome(leased=True)]


@lost
async def test_a_relay_that_starts_afterwards_sees_the_loss(lose):
    setting = Setting()
    written = [setting.write(did) for did in (ADA, BOB, ADA, ADA, BOB, ADA)]
    await drain(setting.relay())
    lose(setting.bus)
    await drain(setting.relay())
    assert sorted(setting.bus.ids()) == sorted(written)


@lost_everything
async def test_what_was_lost_comes_before_what_is_new(lose):
    setting = Setting()
    relay = setting.relay(batch_entries=2)
    written = [setting.write(ADA), setting.write(BOB), setting.write(ADA)]
    await drain(relay)
    lose(setting.bus)
    written += [setting.write(ADA), setting.write(BOB)]
    await drain(relay)
    assert setting.bus.ids() == written


@pytest.mark.parametrize("name", ["recreated", "rolled back"])
async def test_a_loss_between_judging_and_publishing_lets_nothing_overtake(name):
    setting = Setting()
    relay = setting.relay()
    written = [setting.write(ADA) for _ in range(5)]
    await drain(relay)
    written.append(setting.write(ADA))

    async def meanwhile() -> None:
        LOSSES[name](setting.bus)

    setting.bus.before_publish = meanwhile
    assert await relay.run_once() == RelayOutcome(leased=True, waiting=1)
    await drain(relay)
    assert setting.bus.ids() == written


async def test_only_the_stream_that_lost_something_is_compared():
    setting = Setting()
    relay = setting.relay()
    written, media = [setting.write(ADA), setting.write(BOB)], [setting.write(ADA, MEDIA), setting.write(BOB, MEDIA)]
    await drain(relay)
    setting.bus.purge(name="RA_MEDIA")
    outcomes = await drain(relay)
    assert outcomes[0] == RelayOutcome(leased=True, more=True, comparisons=(Comparison("RA_MEDIA", 2, 2),))
    assert (setting.bus.ids("RA_RECORDS"), setting.bus.ids("RA_MEDIA")) == (written, media)


async def test_what_the_limits_of_a_stream_have_dropped_is_not_missed():
    setting = Setting()
    relay = setting.relay()
    for _ in range(3):
        setting.write()
    await drain(relay)
    setting.clock.advance(8 * DAY)
    kept = [setting.write(age=timedelta(days=1)), setting.write()]
    await drain(relay)
    setting.bus.expire(WEEK)
    assert await drain(relay) == [RelayOutcome(leased=True)]
    assert await relay.reconcile() == [Comparison("RA_RECORDS", 2, 0), Comparison("RA_MEDIA", 0, 0)]
    assert setting.bus.ids() == kept


async def test_what_is_gone_before_its_time_is_published_again():
    setting = Setting()
    relay = setting.relay()
    for _ in range(3):
        setting.write()
    await drain(relay)
    setting.clock.advance(8 * DAY)
    young = [setting.write(age=timedelta(days=1)), setting.write(age=timedelta(hours=1)), setting.write()]
    await drain(relay)
    setting.bus.expire(WEEK)
    setting.bus.purge(keep=1)
    assert requeued(await drain(relay)) == 2
    assert sorted(setting.bus.ids()) == young
    assert await drain(relay) == [RelayOutcome(leased=True)]


@lost
async def test_what_was_published_late_is_missed_as_well(lose):
    setting = Setting()
    relay = setting.relay()
    written = [setting.write(age=timedelta(days=30)) for _ in range(6)]
    setting.bus.expire(WEEK)
    await drain(relay)
    written += [setting.write()]
    lose(setting.bus)
    gone = set(written[:-1]) - set(setting.bus.ids())
    assert requeued(await drain(relay)) == len(gone) > 0
    assert sorted(setting.bus.ids()) == written
    assert await relay.reconcile() == [Comparison("RA_RECORDS", 7, 0), Comparison("RA_MEDIA", 0, 0)]


async def test_what_was_published_before_that_was_noted_counts_from_when_it_occurred():
    setting = Setting()
    relay = setting.relay()
    setting.write(age=timedelta(days=8))
    young = setting.write()
    await drain(relay)
    for sequence, entry in setting.outbox.entries.items():
        setting.outbox.entries[sequence] = replace(entry, published_at=None)
    setting.bus.recreate()
    setting.bus.expire(WEEK)
    assert requeued(await drain(relay)) == 1
    assert setting.bus.ids() == [young]


async def test_what_was_lost_and_published_again_is_missed_when_it_is_lost_once_more():
    setting = Setting()
    relay = setting.relay()
    old = [setting.write() for _ in range(8)]
    await drain(relay)
    setting.clock.advance(6 * DAY)
    setting.bus.delete(6)  # a bisection for what is young in two days will not come across it
    await drain(relay)
    setting.clock.advance(2 * DAY)
    young = [setting.write() for _ in range(2)]
    await drain(relay)
    setting.bus.expire(WEEK)
    assert await drain(relay) == [RelayOutcome(leased=True)]
    setting.bus.recreate()
    assert requeued(await drain(relay)) == 3
    assert setting.bus.ids() == [old[5], *young]


async def test_what_was_published_again_does_not_hide_that_older_messages_are_gone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reconciliation, "PAGE_ENTRIES", 2)
    setting = Setting()
    relay = setting.relay()
    for _ in range(4):
        setting.write()
    await drain(relay)
    setting.clock.advance(2 * DAY)
    kept = [setting.write() for _ in range(4)]
    await drain(relay)
    setting.clock.advance(4 * DAY)
    setting.bus.delete(2)
    await drain(relay)
    setting.clock.advance(2 * DAY)
    setting.bus.expire(WEEK)
    assert await drain(relay) == [RelayOutcome(leased=True)]
    setting.bus.purge(keep=3)
    assert requeued(await drain(relay)) == 2
    assert setting.bus.ids()[-2:] == kept[:2]


async def test_what_expires_though_it_was_noted_late_is_not_missed():
    setting = Setting()
    relay = setting.relay()
    unnoted = setting.write()
    setting.bus.lost_acknowledgements = {unnoted}
    await relay.run_once()
    setting.clock.advance(DAY)
    kept = setting.write()
    await drain(relay)
    setting.clock.advance(6.5 * DAY)
    setting.bus.expire(WEEK)
    assert await drain(relay) == [RelayOutcome(leased=True)]
    assert setting.bus.ids() == [kept]


async def test_the_op_log_is_searched_and_not_read_for_where_the_retention_begins():
    setting = Setting()
    relay = setting.relay()
    for _ in range(1500):
        setting.write()
    await drain(relay)
    setting.clock.advance(15 * DAY)  # twice the retention and more
    setting.write()
    await drain(relay)
    setting.bus.expire(WEEK)
    read, reads = setting.outbox.read, []

    async def counted(after: int, limit: int, subject_prefix: str = "") -> list[OpLogEntry]:
        entries = await read(after, limit, subject_prefix)
        reads.append(len(entries))
        return entries

    setting.outbox.read = counted  # type: ignore[method-assign]
    assert await relay.reconcile() == [Comparison("RA_RECORDS", 1, 0), Comparison("RA_MEDIA", 0, 0)]
    assert sum(reads) < 30


@lost
async def test_a_log_larger_than_memory_is_compared_in_chunks(lose):
    setting = Setting()
    relay = setting.relay(chunk_entries=2)
    written = [setting.write(did) for did in (ADA, BOB, ADA, ADA, BOB, ADA)]
    await drain(relay)
    lose(setting.bus)
    await drain(relay)
    assert sorted(setting.bus.ids()) == sorted(written)


@pytest.mark.parametrize("chunk_entries", [1, 3, 100])
async def test_what_moved_within_the_stream_is_not_lost_and_its_new_place_is_noted(chunk_entries):
    setting = Setting()
    relay = setting.relay(chunk_entries=chunk_entries)
    written = [setting.write() for _ in range(4)]
    await drain(relay)
    setting.bus.recreate()
    # An operator has copied the old stream into the new one, the last first.
    copies = [entry for _, entry in sorted(setting.outbox.entries.items(), reverse=True)]
    setting.clock.advance(DAY)
    await setting.bus.publish(copies, await setting.bus.streams())
    copied_at = setting.clock.now()
    setting.clock.advance(DAY)
    outcomes = await drain(relay)
    assert requeued(outcomes) == 0
    assert setting.bus.ids() == written[::-1]
    assert [entry.stream_sequence for entry in setting.outbox.entries.values()] == [4, 3, 2, 1]
    assert {entry.published_at for entry in setting.outbox.entries.values()} == {copied_at}


async def test_what_a_restored_stream_holds_unnoted_is_found_and_not_sent_again():
    setting = Setting()
    relay = setting.relay()
    written = [setting.write(), setting.write()]
    await drain(relay)
    unnoted = setting.write()
    setting.bus.lost_acknowledgements = {unnoted}
    await relay.run_once()
    setting.bus.delete(1)
    setting.clock.advance(600)
    outcomes = await drain(relay)
    assert requeued(outcomes) == 1
    assert setting.bus.ids() == [written[1], unnoted, written[0]]
    assert all(entry.stream_sequence for entry in setting.outbox.entries.values())


async def test_a_long_comparison_keeps_its_lease():
    setting = Setting()
    relay, other = setting.relay(), setting.relay()
    for _ in range(1200):
        setting.write()
    await drain(relay)
    setting.bus.delete(1)
    message_ids, seen = setting.bus.message_ids, []

    async def slowly(stream, after=0):
        async for item in message_ids(stream, after):
            setting.clock.advance(0.02)
            if item[0] % 400 == 0:
                seen.append(await other.run_once())
            yield item

    setting.bus.message_ids = slowly  # type: ignore[method-assign]
    assert requeued([await relay.run_once()]) == 1
    assert seen == [RelayOutcome(leased=False)] * 3


async def test_reconcile_counts_and_requeues_what_nobody_noticed():
    setting = Setting()
    relay = setting.relay()
    written = [setting.write() for _ in range(3)]
    await drain(relay)
    setting.bus.roll_back(1)
    assert await relay.reconcile() == [Comparison("RA_RECORDS", 3, 2), Comparison("RA_MEDIA", 0, 0)]
    await drain(relay)
    assert setting.bus.ids() == written
    assert await relay.reconcile() == [Comparison("RA_RECORDS", 3, 0), Comparison("RA_MEDIA", 0, 0)]


async def test_reconcile_waits_for_its_turn():
    setting = Setting()
    expires_at = setting.clock.now() + timedelta(seconds=10)
    await setting.outbox.lease("another", 0, now=setting.clock.now(), expires_at=expires_at)
    assert await setting.relay().reconcile() is None


async def test_a_comparison_that_was_overtaken_requeues_nothing():
    setting = Setting()
    relay = setting.relay()
    setting.write()
    await drain(relay)
    setting.bus.recreate()
    message_ids = setting.bus.message_ids

    async def overtaken(stream, after=0):
        setting.clock.advance(3600)
        later = setting.clock.now() + timedelta(seconds=10)
        await setting.outbox.lease("quick", 0, now=setting.clock.now(), expires_at=later)
        async for item in message_ids(stream, after):
            yield item

    setting.bus.message_ids = overtaken  # type: ignore[method-assign]
    setting.bus._streams["RA_RECORDS"].last_sequence = 2
    assert await relay.run_once() == RelayOutcome(leased=False)
    assert setting.outbox.entries[1].stream_sequence == 1


@given(
    losses=st.lists(st.tuples(st.sampled_from(sorted(LOSSES)), st.integers(0, 40)), max_size=4),
    batch_entries=st.integers(1, 4),
    chunk_entries=st.integers(1, 4),
)
async def test_dying_at_any_line_of_a_repair_still_repairs(losses, batch_entries, chunk_entries):
    setting = Setting()
    written = [setting.write(did) for did in (ADA, BOB, ADA, BOB)]
    await drain(setting.relay())
    for name, life in losses:
        written += [setting.write(ADA), setting.write(BOB)]
        LOSSES[name](setting.bus)
        left = [life]
        mortal = Relay(
            Mortal(setting.outbox, left),
            Mortal(setting.bus, left),
            setting.clock,
            setting.ids,
            batch_entries=batch_entries,
            chunk_entries=chunk_entries,
        )
        with suppress(Killed):
            while True:
                await mortal.run_once()
        setting.clock.advance(16)
    await drain(setting.relay(batch_entries, chunk_entries))
    assert sorted(setting.bus.ids()) == written
    assert all(entry.stream_sequence for entry in setting.outbox.entries.values())
