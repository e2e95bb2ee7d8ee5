"""Repair of streams that lost messages, on fakes: lost events are published again, in order, and no others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cdv_core.ports.outbox import OpLogEntry
from cdv_core.use_cases import reconciliation
from cdv_core.use_cases.reconciliation import Comparison
from cdv_core.use_cases.relay import RelayOutcome
from tests.core.relaying import ADA, BOB, MEDIA, Harness, drain, run_until_crash
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
async def test_lost_messages_are_published_again_once(lose):
    harness = Harness()
    relay = harness.relay()
    written = [harness.write(did) for did in (ADA, BOB, ADA, ADA, BOB, ADA)]
    await drain(relay)
    lose(harness.bus)
    gone = set(written) - set(harness.bus.ids())
    outcomes = await drain(relay)
    assert sorted(harness.bus.ids()) == sorted(written)
    assert requeued(outcomes) == len(gone) > 0
    assert await drain(relay) == [RelayOutcome(leased=True)]


@lost
async def test_a_relay_started_after_a_loss_detects_it(lose):
    harness = Harness()
    written = [harness.write(did) for did in (ADA, BOB, ADA, ADA, BOB, ADA)]
    await drain(harness.relay())
    lose(harness.bus)
    await drain(harness.relay())
    assert sorted(harness.bus.ids()) == sorted(written)


@lost_everything
async def test_lost_messages_are_published_before_new_ones(lose):
    harness = Harness()
    relay = harness.relay(batch_entries=2)
    written = [harness.write(ADA), harness.write(BOB), harness.write(ADA)]
    await drain(relay)
    lose(harness.bus)
    written += [harness.write(ADA), harness.write(BOB)]
    await drain(relay)
    assert harness.bus.ids() == written


@pytest.mark.parametrize("name", ["recreated", "rolled back"])
async def test_a_loss_between_check_and_publish_does_not_change_the_order(name):
    harness = Harness()
    relay = harness.relay()
    written = [harness.write(ADA) for _ in range(5)]
    await drain(relay)
    written.append(harness.write(ADA))

    async def meanwhile() -> None:
        LOSSES[name](harness.bus)

    harness.bus.before_publish = meanwhile
    assert await relay.run_once() == RelayOutcome(leased=True, waiting=1)
    await drain(relay)
    assert harness.bus.ids() == written


async def test_only_the_stream_that_lost_something_is_compared():
    harness = Harness()
    relay = harness.relay()
    written, media = [harness.write(ADA), harness.write(BOB)], [harness.write(ADA, MEDIA), harness.write(BOB, MEDIA)]
    await drain(relay)
    harness.bus.purge(name="RA_MEDIA")
    outcomes = await drain(relay)
    assert outcomes[0] == RelayOutcome(leased=True, more=True, comparisons=(Comparison("RA_MEDIA", 2, 2),))
    assert (harness.bus.ids("RA_RECORDS"), harness.bus.ids("RA_MEDIA")) == (written, media)


async def test_messages_expired_by_retention_are_not_published_again():
    harness = Harness()
    relay = harness.relay()
    for _ in range(3):
        harness.write()
    await drain(relay)
    harness.clock.advance(8 * DAY)
    kept = [harness.write(age=timedelta(days=1)), harness.write()]
    await drain(relay)
    harness.bus.expire(WEEK)
    assert await drain(relay) == [RelayOutcome(leased=True)]
    assert await relay.reconcile() == [Comparison("RA_RECORDS", 2, 0), Comparison("RA_MEDIA", 0, 0)]
    assert harness.bus.ids() == kept


async def test_messages_lost_before_their_retention_ends_are_published_again():
    harness = Harness()
    relay = harness.relay()
    for _ in range(3):
        harness.write()
    await drain(relay)
    harness.clock.advance(8 * DAY)
    young = [harness.write(age=timedelta(days=1)), harness.write(age=timedelta(hours=1)), harness.write()]
    await drain(relay)
    harness.bus.expire(WEEK)
    harness.bus.purge(keep=1)
    assert requeued(await drain(relay)) == 2
    assert sorted(harness.bus.ids()) == young
    assert await drain(relay) == [RelayOutcome(leased=True)]


@lost
async def test_retention_counts_from_publication_and_not_from_the_event_time(lose):
    harness = Harness()
    relay = harness.relay()
    written = [harness.write(age=timedelta(days=30)) for _ in range(6)]
    harness.bus.expire(WEEK)
    await drain(relay)
    written += [harness.write()]
    lose(harness.bus)
    gone = set(written[:-1]) - set(harness.bus.ids())
    assert requeued(await drain(relay)) == len(gone) > 0
    assert sorted(harness.bus.ids()) == written
    assert await relay.reconcile() == [Comparison("RA_RECORDS", 7, 0), Comparison("RA_MEDIA", 0, 0)]


async def test_without_a_publication_time_retention_counts_from_the_event_time():
    harness = Harness()
    relay = harness.relay()
    harness.write(age=timedelta(days=8))
    young = harness.write()
    await drain(relay)
    for sequence, entry in harness.outbox.entries.items():
        harness.outbox.entries[sequence] = replace(entry, published_at=None)
    harness.bus.recreate()
    harness.bus.expire(WEEK)
    assert requeued(await drain(relay)) == 1
    assert harness.bus.ids() == [young]


async def test_a_republished_message_that_is_lost_again_is_published_again():
    harness = Harness()
    relay = harness.relay()
    old = [harness.write() for _ in range(8)]
    await drain(relay)
    harness.clock.advance(6 * DAY)
    harness.bus.delete(6)  # a bisection for the retention limit in two days will not meet it
    await drain(relay)
    harness.clock.advance(2 * DAY)
    young = [harness.write() for _ in range(2)]
    await drain(relay)
    harness.bus.expire(WEEK)
    assert await drain(relay) == [RelayOutcome(leased=True)]
    harness.bus.recreate()
    assert requeued(await drain(relay)) == 3
    assert harness.bus.ids() == [old[5], *young]


async def test_a_republished_message_does_not_hide_the_loss_of_older_messages(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reconciliation, "PAGE_ENTRIES", 2)
    harness = Harness()
    relay = harness.relay()
    for _ in range(4):
        harness.write()
    await drain(relay)
    harness.clock.advance(2 * DAY)
    kept = [harness.write() for _ in range(4)]
    await drain(relay)
    harness.clock.advance(4 * DAY)
    harness.bus.delete(2)
    await drain(relay)
    harness.clock.advance(2 * DAY)
    harness.bus.expire(WEEK)
    assert await drain(relay) == [RelayOutcome(leased=True)]
    harness.bus.purge(keep=3)
    assert requeued(await drain(relay)) == 2
    assert harness.bus.ids()[-2:] == kept[:2]


async def test_an_expired_message_that_was_acknowledged_late_is_not_published_again():
    harness = Harness()
    relay = harness.relay()
    unacknowledged = harness.write()
    harness.bus.lost_acknowledgements = {unacknowledged}
    await relay.run_once()
    harness.clock.advance(DAY)
    kept = harness.write()
    await drain(relay)
    harness.clock.advance(6.5 * DAY)
    harness.bus.expire(WEEK)
    assert await drain(relay) == [RelayOutcome(leased=True)]
    assert harness.bus.ids() == [kept]


async def test_the_start_of_retention_is_found_without_reading_the_whole_op_log():
    harness = Harness()
    relay = harness.relay()
    for _ in range(1500):
        harness.write()
    await drain(relay)
    harness.clock.advance(15 * DAY)  # twice the retention and more
    harness.write()
    await drain(relay)
    harness.bus.expire(WEEK)
    read, reads = harness.outbox.read, []

    async def counted(after: int, limit: int, subject_prefix: str = "") -> list[OpLogEntry]:
        entries = await read(after, limit, subject_prefix)
        reads.append(len(entries))
        return entries

    harness.outbox.read = counted  # type: ignore[method-assign]
    assert await relay.reconcile() == [Comparison("RA_RECORDS", 1, 0), Comparison("RA_MEDIA", 0, 0)]
    assert sum(reads) < 30


@lost
async def test_the_op_log_is_compared_in_chunks(lose):
    harness = Harness()
    relay = harness.relay(chunk_entries=2)
    written = [harness.write(did) for did in (ADA, BOB, ADA, ADA, BOB, ADA)]
    await drain(relay)
    lose(harness.bus)
    await drain(relay)
    assert sorted(harness.bus.ids()) == sorted(written)


@pytest.mark.parametrize("chunk_entries", [1, 3, 100])
async def test_a_message_moved_within_the_stream_is_not_lost_and_its_new_sequence_is_stored(chunk_entries):
    harness = Harness()
    relay = harness.relay(chunk_entries=chunk_entries)
    written = [harness.write() for _ in range(4)]
    await drain(relay)
    harness.bus.recreate()
    # An operator has copied the old stream into the new one in reverse order.
    copies = [entry for _, entry in sorted(harness.outbox.entries.items(), reverse=True)]
    harness.clock.advance(DAY)
    await harness.bus.publish(copies, await harness.bus.streams())
    copied_at = harness.clock.now()
    harness.clock.advance(DAY)
    outcomes = await drain(relay)
    assert requeued(outcomes) == 0
    assert harness.bus.ids() == written[::-1]
    assert [entry.stream_sequence for entry in harness.outbox.entries.values()] == [4, 3, 2, 1]
    assert {entry.published_at for entry in harness.outbox.entries.values()} == {copied_at}


async def test_an_unacknowledged_message_found_in_the_stream_is_not_published_again():
    harness = Harness()
    relay = harness.relay()
    written = [harness.write(), harness.write()]
    await drain(relay)
    unacknowledged = harness.write()
    harness.bus.lost_acknowledgements = {unacknowledged}
    await relay.run_once()
    harness.bus.delete(1)
    harness.clock.advance(600)
    outcomes = await drain(relay)
    assert requeued(outcomes) == 1
    assert harness.bus.ids() == [written[1], unacknowledged, written[0]]
    assert all(entry.stream_sequence for entry in harness.outbox.entries.values())


async def test_a_long_comparison_keeps_its_lease():
    harness = Harness()
    relay, other = harness.relay(), harness.relay()
    for _ in range(1200):
        harness.write()
    await drain(relay)
    harness.bus.delete(1)
    message_ids, other_outcomes = harness.bus.message_ids, []

    async def slowly(stream, after=0):
        async for item in message_ids(stream, after):
            harness.clock.advance(0.02)
            if item[0] % 400 == 0:
                other_outcomes.append(await other.run_once())
            yield item

    harness.bus.message_ids = slowly  # type: ignore[method-assign]
    assert requeued([await relay.run_once()]) == 1
    assert other_outcomes == [RelayOutcome(leased=False)] * 3


async def test_reconcile_counts_and_requeues_undetected_losses():
    harness = Harness()
    relay = harness.relay()
    written = [harness.write() for _ in range(3)]
    await drain(relay)
    harness.bus.roll_back(1)
    assert await relay.reconcile() == [Comparison("RA_RECORDS", 3, 2), Comparison("RA_MEDIA", 0, 0)]
    await drain(relay)
    assert harness.bus.ids() == written
    assert await relay.reconcile() == [Comparison("RA_RECORDS", 3, 0), Comparison("RA_MEDIA", 0, 0)]


async def test_reconcile_returns_none_while_another_relay_holds_the_lease():
    harness = Harness()
    expires_at = harness.clock.now() + timedelta(seconds=10)
    await harness.outbox.lease("another", 0, now=harness.clock.now(), expires_at=expires_at)
    assert await harness.relay().reconcile() is None


async def test_a_comparison_that_has_lost_its_lease_requeues_nothing():
    harness = Harness()
    relay = harness.relay()
    harness.write()
    await drain(relay)
    harness.bus.recreate()
    message_ids = harness.bus.message_ids

    async def overtaken(stream, after=0):
        harness.clock.advance(3600)
        later = harness.clock.now() + timedelta(seconds=10)
        await harness.outbox.lease("quick", 0, now=harness.clock.now(), expires_at=later)
        async for item in message_ids(stream, after):
            yield item

    harness.bus.message_ids = overtaken  # type: ignore[method-assign]
    harness.bus._streams["RA_RECORDS"].last_sequence = 2
    assert await relay.run_once() == RelayOutcome(leased=False)
    assert harness.outbox.entries[1].stream_sequence == 1


@given(
    losses=st.lists(st.tuples(st.sampled_from(sorted(LOSSES)), st.integers(0, 40)), max_size=4),
    batch_entries=st.integers(1, 4),
    chunk_entries=st.integers(1, 4),
)
async def test_a_repair_that_crashes_at_any_call_is_completed_later(losses, batch_entries, chunk_entries):
    harness = Harness()
    written = [harness.write(did) for did in (ADA, BOB, ADA, BOB)]
    await drain(harness.relay())
    for name, steps in losses:
        written += [harness.write(ADA), harness.write(BOB)]
        LOSSES[name](harness.bus)
        await run_until_crash(harness, steps, batch_entries=batch_entries, chunk_entries=chunk_entries)
        harness.clock.advance(16)
    await drain(harness.relay(batch_entries, chunk_entries))
    assert sorted(harness.bus.ids()) == written
    assert all(entry.stream_sequence for entry in harness.outbox.entries.values())
