"""The contract of record stores: a state machine, and tests of concurrent operations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import count, cycle, product
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from cdv_core.domain.canonical import canonical_record
from cdv_core.domain.cursors import Cursor
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import Did, Nsid, RecordKey, RecordUri
from cdv_core.domain.limits import PAGE_MAX_BYTES
from cdv_core.domain.records import ListQuery, NewRecord, StoredRecord, record_json
from cdv_core.errors import IdempotencyConflict, IdTaken
from cdv_core.ports.records import IdempotentReply
from conformance.ports.records_machine import record_machine
from conformance.ports.stores import (
    ALICE,
    BOB,
    BOUNDED,
    CAROL,
    FLAG,
    LIKE,
    POST,
    START,
    DatabaseContract,
    OpenStores,
    Stores,
    a_record,
    as_stored,
    its_event,
    later,
    listed,
    matching,
    op_log,
    ulid,
    unavailable_until_back,
)
from conformance.strategies import COLLECTIONS, DIDS, JSON_OBJECTS, NSIDS, records_of

KEY = IdempotencyKey("key")
LIFE = timedelta(hours=24)
# Examples may share a store, because each writes a different record.
_SHARED_STORE = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors, HealthCheck.too_slow]


def retryable(record: NewRecord, request: int = 0) -> IdempotentReply:
    """Return the idempotent reply to the write of `record`: its URI. `request`: sets the fingerprint."""
    return IdempotentReply(KEY, bytes([request]) * 32, str(record.uri).encode(), record.indexed_at + LIFE)


async def create_with_key(stores: Stores, record: NewRecord, request: int = 0) -> bytes:
    """Write `record` under KEY; return the reply: its own, or the one stored under the key."""
    earlier = await stores.records.create(record, its_event(record), retryable(record, request))
    return str(record.uri).encode() if earlier is None else earlier


async def create_with_key_concurrently(nodes: Sequence[Stores], records: Iterable[NewRecord]) -> list[bytes]:
    """Write the records under KEY, concurrently and through both nodes; return the replies."""
    return await asyncio.gather(*(create_with_key(stores, record) for stores, record in zip(cycle(nodes), records)))


async def create(stores: Stores, record: NewRecord) -> None:
    assert await stores.records.create(record, its_event(record)) is None


def large(number: int, size: int) -> NewRecord:
    """Return record `number` with a text of `size` characters, which may exceed the limit for clients."""
    small = a_record(number)
    value = msgspec.json.encode({"text": "x" * size})
    return NewRecord(small.uri, small.cid, value, small.indexed_at, small.schema_version)


async def stored_uris(stores: Stores) -> list[RecordUri]:
    return [record.uri async for record in stores.records.scan()]


async def event_uris(stores: Stores) -> list[str]:
    """Return the record URI of each event, in op-log order."""
    return [msgspec.json.decode(event.envelope)["payload"]["uri"] for event in await op_log(stores)]


def _values(did: str) -> st.SearchStrategy[tuple[str, str, dict[str, Any]]]:
    bundled = st.sampled_from(COLLECTIONS).flatmap(
        lambda name: st.tuples(st.just(did), st.just(name), records_of(name, did))
    )
    return bundled | st.tuples(st.just(did), NSIDS, JSON_OBJECTS)


class RecordStoreContract(DatabaseContract):
    """To use it, inherit and provide the fixture `open_stores`."""

    def test_any_sequence_of_operations_matches_the_model(self, open_stores: OpenStores):
        run_state_machine_as_test(record_machine(open_stores), settings=BOUNDED)

    @settings(max_examples=60, deadline=None, suppress_health_check=_SHARED_STORE)
    @given(did_collection_and_value=DIDS.flatmap(_values))
    async def test_a_stored_record_is_read_back_with_the_same_cid(
        self, stores: Stores, numbers: Iterator[int], did_collection_and_value: tuple[str, str, dict[str, Any]]
    ):
        did, collection, value = did_collection_and_value
        record = a_record(next(numbers), Did(did), Nsid(collection), value=value)
        await create(stores, record)

        (found,) = await listed(stores, ListQuery(record.uri.did, 1))

        assert found == as_stored(record) == await stores.records.find(record.uri)
        assert canonical_record(found.value).cid == record.cid

    @pytest.fixture
    def numbers(self) -> Iterator[int]:
        return count()

    async def test_24_concurrent_writes_with_one_key_store_one_record_and_return_one_reply(
        self, nodes: Sequence[Stores]
    ):
        stores, _ = nodes
        replies = await create_with_key_concurrently(nodes, map(a_record, range(24)))

        (stored,) = await stored_uris(stores)
        assert replies == [str(stored).encode()] * 24
        assert await event_uris(stores) == [str(stored)]

    async def test_of_concurrent_different_requests_with_one_key_one_is_stored(self, nodes: Sequence[Stores]):
        stores, _ = nodes
        attempts = (create_with_key(nodes[number % 2], a_record(number), request=number) for number in range(24))

        results = await asyncio.gather(*attempts, return_exceptions=True)

        (stored,) = await stored_uris(stores)
        (reply,) = [result for result in results if not isinstance(result, IdempotencyConflict)]
        assert reply == str(stored).encode()
        assert await event_uris(stores) == [str(stored)]

    async def test_a_key_can_be_reused_from_the_moment_it_expires(self, nodes: Sequence[Stores]):
        stores, other = nodes
        first = a_record(1)
        end = first.indexed_at + LIFE
        await create_with_key(stores, first)
        last_moment = end - timedelta(microseconds=1)
        assert await create_with_key(other, a_record(2, at=last_moment)) == str(first.uri).encode()

        replies = await create_with_key_concurrently(nodes, (a_record(number, at=end) for number in range(3, 15)))

        assert len(set(replies)) == 1
        assert set(await stored_uris(stores)) == {first.uri, RecordUri.parse(replies[0].decode())}

    async def test_idempotency_keys_are_scoped_to_their_creator(self, stores: Stores):
        await create_with_key(stores, a_record(1, ALICE), request=1)
        bobs = a_record(2, BOB)

        assert await create_with_key(stores, bobs, request=2) == str(bobs.uri).encode()
        assert await stores.records.find_reply(BOB, KEY, bytes([2]) * 32, bobs.indexed_at) == str(bobs.uri).encode()
        with pytest.raises(IdempotencyConflict):
            await stores.records.find_reply(ALICE, KEY, bytes([2]) * 32, bobs.indexed_at)

    async def test_concurrent_first_writes_of_100_creators_are_all_stored(self, nodes: Sequence[Stores]):
        stores, _ = nodes
        # Each DID is written to through both nodes, neither of which has seen it before.
        records = [a_record(number, Did(f"did:plc:{number // 2}")) for number in range(200)]

        await asyncio.gather(*(create(nodes[number % 2], record) for number, record in enumerate(records)))

        assert set(await stored_uris(stores)) == {record.uri for record in records}
        assert set(await event_uris(stores)) == {str(record.uri) for record in records}

    async def test_100_concurrent_writes_of_one_new_creator_are_all_stored(self, nodes: Sequence[Stores]):
        stores, _ = nodes
        records = [a_record(number) for number in range(100)]

        await asyncio.gather(*(create(nodes[number % 2], record) for number, record in enumerate(records)))

        found = await listed(stores, ListQuery(ALICE, 1000))
        assert found == [as_stored(record) for record in reversed(records)]
        assert sorted(await event_uris(stores)) == sorted(str(record.uri) for record in records)

    async def test_the_op_log_holds_each_creators_writes_in_commit_order(self, nodes: Sequence[Stores]):
        chains = [
            [a_record(100 * n + place, Did(f"did:plc:{n}"), at=later(-place)) for place in range(12)] for n in range(8)
        ]

        async def one_after_the_other(chain: list[NewRecord]) -> None:
            for place, record in enumerate(chain):
                await create(nodes[place % 2], record)

        await asyncio.gather(*map(one_after_the_other, chains))

        events = await event_uris(nodes[0])
        for chain in chains:
            uris = [str(record.uri) for record in chain]
            assert [uri for uri in events if uri in uris] == uris

    async def test_a_concurrent_reader_sees_the_op_log_grow_only_at_its_end(self, nodes: Sequence[Stores]):
        """Otherwise a relay could publish the later event first. Large records of one node take longer to commit."""
        visible: list[str] = []
        written = asyncio.Event()

        async def writers() -> None:
            for start in range(0, 60, 3):
                records = large(start, 200_000), a_record(start + 1), a_record(start + 2)
                await asyncio.gather(*(create(nodes[number > 0], record) for number, record in enumerate(records)))
            written.set()

        async def reader() -> None:
            while not written.is_set():
                events = await event_uris(nodes[1])
                assert events[: len(visible)] == visible
                visible[:] = events
                await asyncio.sleep(0)  # an in-memory store never yields to other tasks by itself

        await asyncio.gather(writers(), reader())

    async def test_acknowledged_writes_are_visible_to_other_instances_and_survive_their_writer(
        self, stores: Stores, again: OpenStores
    ):
        first, second = a_record(1), a_record(2, BOB)

        async def all_there(node: Stores) -> None:
            assert await node.records.find(first.uri) == as_stored(first)
            assert await node.records.find(second.uri) == as_stored(second)
            assert await listed(node, ListQuery(ALICE, 10)) == [as_stored(first)]
            assert await node.records.find_reply(ALICE, KEY, b"\x00" * 32, first.indexed_at) == str(first.uri).encode()
            assert await event_uris(node) == [str(first.uri), str(second.uri)]

        async with again() as writer:
            await create_with_key(writer, first)
            await create(writer, second)
            await all_there(stores)
        async with again() as other:
            await all_there(other)
        await all_there(stores)

    async def test_every_call_raises_unavailable_while_the_server_is_down(
        self, stores: Stores, away: Callable[[bool], None]
    ):
        numbers = count()

        async def scan() -> list[StoredRecord]:
            return [record async for record in stores.records.scan()]

        await unavailable_until_back(
            away,
            lambda: create(stores, a_record(next(numbers))),
            lambda: stores.records.find(a_record(0).uri),
            lambda: stores.records.find_reply(ALICE, KEY, b"\x00" * 32, START),
            lambda: stores.records.list(ListQuery(ALICE, 10)),
            lambda: stores.records.purge_expired_replies(START, 10),
            scan,
        )

    async def test_a_write_with_a_duplicate_event_id_stores_nothing(self, stores: Stores):
        await create(stores, a_record(1))
        record = a_record(2, BOB)
        with pytest.raises(IdTaken):
            await stores.records.create(record, its_event(record, 1), retryable(record))

        assert await stored_uris(stores) == [a_record(1).uri]
        assert await stores.records.find_reply(BOB, KEY, b"\x00" * 32, record.indexed_at) is None

        assert await create_with_key(stores, record) == str(record.uri).encode()
        assert await event_uris(stores) == [str(a_record(1).uri), str(record.uri)]

    async def test_two_collections_may_share_an_rkey_unless_their_times_are_equal(self, stores: Stores):
        post, same_place = a_record(1, ALICE, POST, at=START), a_record(1, ALICE, LIKE, at=START)
        await create(stores, post)
        with pytest.raises(IdTaken):
            await stores.records.create(same_place, its_event(same_place, 2))

        later_like, bobs = a_record(1, ALICE, LIKE, at=later(1)), a_record(1, BOB, POST, at=START)
        await stores.records.create(later_like, its_event(later_like, 3))
        await stores.records.create(bobs, its_event(bobs, 4))

        assert await listed(stores, ListQuery(ALICE, 10)) == [as_stored(later_like), as_stored(post)]
        assert await listed(stores, ListQuery(BOB, 10)) == [as_stored(bobs)]

    async def test_a_cancelled_write_is_stored_completely_or_not_at_all(self, stores: Stores):
        records = [a_record(number, Did(f"did:plc:{number % 5}")) for number in range(40)]
        tasks = [asyncio.create_task(create_with_own_key(stores, record)) for record in records]
        for patience, task in enumerate(tasks):
            for _ in range(patience % 5):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        async def replied() -> set[str]:
            kept = set()
            for record in records:
                key = IdempotencyKey(record.uri.rkey)
                if await stores.records.find_reply(record.uri.did, key, b"\x00" * 32, record.indexed_at) is not None:
                    kept.add(str(record.uri))
            return kept

        # The cancelled write may still be in flight; it must take effect completely or not at all.
        async with asyncio.timeout(10):
            while True:
                logged, kept = set(await event_uris(stores)), await replied()
                stored = {str(uri) for uri in await stored_uris(stores)}
                if stored == logged == kept:
                    break

    @pytest.mark.parametrize("collection", [None, POST])
    async def test_paging_during_writes_returns_each_earlier_record_exactly_once(self, stores: Stores, collection):
        # Three records at each microsecond, so that some pages end between records of the same time.
        earlier = [a_record(500 + n, ALICE, POST if n % 2 else LIKE, at=later(n // 3)) for n in range(60)]
        for record in earlier:
            await create(stores, record)
        numbers = iter([*range(499, 0, -9), *range(600, 700)])
        walked: list[StoredRecord] = []
        after = None

        while page := await listed(stores, ListQuery(ALICE, 7, collection, after=after)):
            walked += page
            assert len({record.uri for record in walked}) == len(walked)
            after = Cursor(page[-1].indexed_at, page[-1].uri.rkey)
            moments = [page[-1].indexed_at, page[0].indexed_at, later(100 + len(walked))]
            await asyncio.gather(*(create(stores, a_record(next(numbers), at=moment)) for moment in moments))

        matching = [record for record in reversed(earlier) if collection in {None, record.uri.collection}]
        assert [found for found in walked if found.uri in {record.uri for record in earlier}] == [
            as_stored(record) for record in matching
        ]

    async def test_every_combination_of_listing_bounds_returns_the_records_between_them(self, stores: Stores):
        records = [a_record(n, ALICE, POST if n % 2 else LIKE, at=later(n // 2)) for n in range(8)]
        for record in records:
            await create(stores, record)
        moments = [None, *(later(micros) for micros in range(4))]
        cursors = [None, *(Cursor(record.indexed_at, record.uri.rkey) for record in records)]

        for collection, since, until, after in product((None, POST), moments, moments, cursors):
            found = await listed(stores, ListQuery(ALICE, 100, collection, frozenset(), since, until, after))

            assert [record.uri for record in found] == [
                record.uri
                for record in reversed(records)
                if collection in {None, record.uri.collection}
                and (since is None or record.indexed_at >= since)
                and (until is None or record.indexed_at <= until)
                and (after is None or (record.indexed_at, record.uri.rkey) < (after.indexed_at, after.rkey))
            ]

    @pytest.mark.parametrize("sizes", [[262_000] * 6, [900_000, 1, 1, 262_000, 1, 400_000, 400_000, 400_000, 1]])
    @pytest.mark.parametrize("limit", [1, 2, 5, 100])
    async def test_a_page_of_large_records_ends_early_and_reports_more(
        self, stores: Stores, sizes: list[int], limit: int
    ):
        for number, size in enumerate(sizes):
            await create(stores, large(number, size))

        walked: list[StoredRecord] = []
        more = True
        while more:
            after = Cursor(walked[-1].indexed_at, walked[-1].uri.rkey) if walked else None
            page, more = await matching(stores, ListQuery(ALICE, limit, after=after))
            assert 1 <= len(page) <= limit
            assert sum(len(record_json(record)) for record in page) <= PAGE_MAX_BYTES
            walked += page
        assert [record.uri.rkey for record in walked] == [ulid(number) for number in reversed(range(len(sizes)))]

    async def test_a_page_within_the_size_limit_is_complete(self, stores: Stores):
        for number in range(4):
            await create(stores, large(number, PAGE_MAX_BYTES // 4 - 1000))
        assert [len((await matching(stores, ListQuery(ALICE, limit)))[0]) for limit in (3, 4, 100)] == [3, 4, 4]

    async def test_a_page_that_would_exceed_the_size_limit_by_one_byte_ends_early(self, stores: Stores):
        empty = len(record_json(as_stored(large(0, 0))))
        for number in range(4):
            await create(stores, large(number, PAGE_MAX_BYTES // 4 - empty + (number == 0)))
        page, more = await matching(stores, ListQuery(ALICE, 100))
        assert (1 <= len(page) <= 3, more) == (True, True)

    async def test_a_record_over_the_page_size_limit_is_a_page_by_itself(self, stores: Stores):
        """No client may write such a record, but a program that embeds the stores can."""
        for number in range(2):
            await create(stores, large(number, PAGE_MAX_BYTES))

        page, more = await matching(stores, ListQuery(ALICE, 100))
        assert ([record.uri.rkey for record in page], more) == ([ulid(1)], True)

    async def test_concurrent_reads_each_return_their_own_result(self, stores: Stores):
        """A store may read for several callers with one statement."""
        dids = [ALICE, BOB, CAROL]
        for number, (did, collection) in enumerate(product(dids, (POST, LIKE, FLAG, POST))):
            await create(stores, a_record(number, did, collection))
        listings = [
            ListQuery(did, limit, collection, hidden)
            for did, limit, (collection, hidden) in product(
                [*dids, Did("did:plc:nobody")],
                (1, 3),
                (
                    (None, frozenset[Nsid]()),
                    (None, frozenset({FLAG})),
                    (POST, frozenset[Nsid]()),
                    (LIKE, frozenset({FLAG})),
                ),
            )
        ] * 3
        uris = [RecordUri(did, POST, RecordKey(ulid(number))) for did, number in product(dids, range(12))] * 2
        alone = [await stores.records.list(it) for it in listings], [await stores.records.find(it) for it in uris]
        together = await asyncio.gather(
            asyncio.gather(*(stores.records.list(listing) for listing in listings)),
            asyncio.gather(*(stores.records.find(uri) for uri in uris)),
        )
        assert ([*together[0]], [*together[1]]) == alone
        assert {it.uri for it in alone[1] if it} == {uri for uri in await stored_uris(stores) if uri.collection == POST}
        assert len({tuple(page.records) for page in alone[0]}) > 12

    async def test_concurrent_purges_count_each_expired_reply_once(self, nodes: Sequence[Stores]):
        stores, _ = nodes
        records = [a_record(number, Did(f"did:plc:{number}")) for number in range(30)]
        for record in records:
            await create_with_key(stores, record)
        end = records[-1].indexed_at + LIFE

        async def purge(node: Stores) -> int:
            now = end - timedelta(seconds=5)
            return sum([await node.records.purge_expired_replies(now, 4) for _ in range(10)])

        assert sum(await asyncio.gather(*(purge(nodes[number % 2]) for number in range(5)))) == 25
        assert await stores.records.purge_expired_replies(end, 100) == 5


async def create_with_own_key(stores: Stores, record: NewRecord) -> None:
    """Write `record` with its rkey as the idempotency key."""
    key = IdempotencyKey(record.uri.rkey)
    kept = IdempotentReply(key, b"\x00" * 32, b"reply", record.indexed_at + LIFE)
    await stores.records.create(record, its_event(record), kept)
