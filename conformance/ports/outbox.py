"""The contract of outboxes: a state machine, and tests of concurrent relays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import count

from hypothesis.stateful import run_state_machine_as_test

from cdv_core.domain.identifiers import Did
from cdv_core.ports.outbox import Backlog, OpLogEntry, Publication, StreamMark
from conformance.ports.outbox_machine import outbox_machine
from conformance.ports.stores import (
    BOB,
    BOUNDED,
    START,
    DatabaseContract,
    OpenStores,
    Stores,
    a_record,
    its_event,
    op_log,
    ulid,
    unavailable_until_back,
)

LEASE = timedelta(seconds=30)


async def write(stores: Stores, number: int, did: Did = BOB) -> None:
    record = a_record(number, did)
    await stores.records.create(record, its_event(record))


async def lease(stores: Stores, owner: str, limit: int = 100, now: datetime = START) -> list[OpLogEntry] | None:
    return await stores.outbox.lease(owner, limit, now=now, expires_at=now + LEASE)


def ids(entries: list[OpLogEntry] | None) -> list[str] | None:
    return None if entries is None else [entry.event.event_id for entry in entries]


class OutboxContract(DatabaseContract):
    """To use it, inherit and provide the fixture `open_stores`."""

    def test_any_sequence_of_operations_matches_the_model(self, open_stores: OpenStores):
        run_state_machine_as_test(outbox_machine(open_stores), settings=BOUNDED)

    async def test_one_of_several_concurrent_relays_leases_the_entries(self, nodes: Sequence[Stores]):
        await write(nodes[0], 1)

        results = await asyncio.gather(*(lease(nodes[number % 2], f"relay {number}") for number in range(10)))

        assert (
            sorted(map(ids, results), key=str) == [None] * 9 + [[ulid(1)]]
            or sorted(map(ids, results), key=lambda entries: entries is None) == [[ulid(1)]] + [None] * 9
        )

    async def test_another_relay_takes_over_from_the_moment_the_lease_expires(self, nodes: Sequence[Stores]):
        stores, other = nodes
        await write(stores, 1)
        assert ids(await lease(stores, "first")) == [ulid(1)]
        end = START + LEASE

        assert await lease(other, "second", now=end - timedelta(microseconds=1)) is None
        assert ids(await lease(other, "second", now=end)) == [ulid(1)]
        assert await lease(stores, "first", now=end) is None

    async def test_a_relay_that_lost_its_lease_can_change_nothing(self, nodes: Sequence[Stores]):
        stores, other = nodes
        await write(stores, 1)
        (entry,) = await lease(stores, "first") or []
        await lease(other, "second", now=START + LEASE)

        assert not await stores.outbox.mark_published("first", [Publication(entry.sequence, 1, START)])
        assert not await stores.outbox.requeue("first", [entry.sequence])
        await stores.outbox.release("first")

        assert await lease(stores, "third", now=START + LEASE) is None
        assert ids(await lease(other, "second", now=START + LEASE)) == [ulid(1)]

    async def test_a_lease_from_a_fast_clock_does_not_block_other_relays(self, stores: Stores):
        await write(stores, 1)
        assert ids(await lease(stores, "ahead", now=START + LEASE)) == [ulid(1)]
        assert await lease(stores, "second", now=START) is None  # clocks differ
        assert ids(await lease(stores, "ahead", now=START + timedelta(hours=1))) == [ulid(1)]
        assert ids(await lease(stores, "second", now=START)) == [ulid(1)]

    async def test_a_relay_may_mark_entries_until_another_takes_over(self, stores: Stores):
        await write(stores, 1)
        (entry,) = await lease(stores, "first") or []

        assert await stores.outbox.mark_published("first", [Publication(entry.sequence, 7, START)])

        (entry,) = await stores.outbox.read(0, 10)
        assert entry.stream_sequence == 7

    async def test_marks_and_requeues_are_visible_to_other_instances_and_survive_their_relay(
        self, stores: Stores, again: OpenStores
    ):
        mark = StreamMark("RA_RECORDS", "2026-11-24T00:00:00Z", 7)
        async with again() as relay:
            for number in range(3):
                await write(relay, number)
            first, second, _ = await lease(relay, "first") or []
            await relay.outbox.mark_published(
                "first", [Publication(entry.sequence, 7, START) for entry in (first, second)], [mark]
            )
            await relay.outbox.requeue("first", [second.sequence])
            assert await lease(stores, "second") is None

        async with again() as other:
            for node in (stores, other):
                assert await lease(node, "second") is None
                assert [entry.stream_sequence for entry in await node.outbox.read(0, 10)] == [7, None, None]
                assert await node.outbox.stream_marks() == [mark]
                assert (await node.outbox.backlog()).count == 2
            await other.outbox.release("first")
            assert ids(await lease(stores, "second")) == [ulid(1), ulid(2)]

    async def test_every_call_raises_unavailable_while_the_server_is_down(
        self, stores: Stores, away: Callable[[bool], None]
    ):
        await unavailable_until_back(
            away,
            lambda: lease(stores, "relay"),
            lambda: stores.outbox.mark_published("relay", [Publication(1, 1, START)]),
            lambda: stores.outbox.requeue("relay", [1]),
            lambda: stores.outbox.release("another"),
            lambda: stores.outbox.read(0, 10),
            stores.outbox.backlog,
            stores.outbox.stream_marks,
        )

    async def test_an_entry_is_leased_until_it_is_marked_published(self, stores: Stores):
        for number in range(3):
            await write(stores, number)
        for _ in range(3):
            assert ids(await lease(stores, "relay")) == [ulid(0), ulid(1), ulid(2)]

        (first, *_) = await lease(stores, "relay") or []
        await stores.outbox.mark_published("relay", [Publication(first.sequence, 1, START)])

        assert ids(await lease(stores, "relay")) == [ulid(1), ulid(2)]

    async def test_the_publication_time_is_kept_until_the_entry_is_requeued(self, stores: Stores):
        await write(stores, 1)
        (entry,) = await lease(stores, "relay") or []
        assert entry.published_at is None
        late = entry.event.occurred_at + timedelta(days=8, microseconds=1)

        await stores.outbox.mark_published("relay", [Publication(entry.sequence, 1, late)])
        assert [entry.published_at for entry in await stores.outbox.read(0, 10)] == [late]

        await stores.outbox.requeue("relay", [entry.sequence])
        assert await stores.outbox.read(0, 10) == await lease(stores, "relay") == [entry]

        await stores.outbox.mark_published("relay", [Publication(entry.sequence, 2, START)])
        assert [entry.published_at for entry in await stores.outbox.read(0, 10)] == [START]

    async def test_an_unpublished_entry_below_published_ones_is_still_leased(self, stores: Stores):
        for number in range(3):
            await write(stores, number)
        entries = await lease(stores, "relay") or []

        publications = [Publication(entry.sequence, number, START) for number, entry in enumerate(entries[1:], 1)]
        await stores.outbox.mark_published("relay", publications)

        assert ids(await lease(stores, "relay")) == [ulid(0)]
        assert await stores.outbox.backlog() == Backlog(1, a_record(0).indexed_at)

    async def test_concurrent_relays_and_writers_lease_every_entry_in_order_per_creator(self, nodes: Sequence[Stores]):
        dids = [Did(f"did:plc:{number}") for number in range(6)]
        stream: list[OpLogEntry] = []
        stream_sequences = count(1)
        written = asyncio.Event()

        async def writer(place: int, did: Did, stores: Stores) -> None:
            for number in range(15):
                await write(stores, 100 * place + number, did)

        async def relay(owner: str, stores: Stores) -> None:
            for _ in range(
                10_000
            ):  # bounded, so that an outbox which never hands out everything fails instead of hanging
                done = written.is_set()
                entries = await lease(stores, owner, limit=4)
                stream.extend(entries or [])
                await stores.outbox.mark_published(
                    owner, [Publication(entry.sequence, next(stream_sequences), START) for entry in entries or []]
                )
                await stores.outbox.release(owner)
                if done and (await stores.outbox.backlog()).count == 0:
                    return
                await asyncio.sleep(0)  # an in-memory store never yields to other tasks by itself

        async def writers() -> None:
            # Each DID is written to through both nodes concurrently.
            await asyncio.gather(
                *(writer(2 * place + n, did, node) for place, did in enumerate(dids) for n, node in enumerate(nodes))
            )
            written.set()

        await asyncio.gather(writers(), relay("a", nodes[0]), relay("b", nodes[1]), relay("c", nodes[0]))

        assert sorted(it.event.event_id for it in stream) == sorted(it.event_id for it in await op_log(nodes[0]))
        for place, did in enumerate(dids):
            own = [entry for entry in stream if entry.event.did == did]
            assert [entry.sequence for entry in own] == sorted(entry.sequence for entry in own)
            for writer_place in (2 * place, 2 * place + 1):
                expected = [ulid(100 * writer_place + number) for number in range(15)]
                assert [entry.event.event_id for entry in own if entry.event.event_id in expected] == expected
