"""Many writers on two pools, like two replicas: each DID's commits keep their order, and nothing happens twice."""

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime, timedelta
from itertools import chain, count

import psycopg
import pytest
from msgspec.structs import replace

from cdv_adapters.database.postgres import PostgresOptions
from cdv_adapters.database.postgres_migration import migrate
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import Did
from cdv_core.domain.media import AssetState
from cdv_core.domain.records import ListQuery
from cdv_core.errors import IdempotencyConflict
from cdv_core.ports.outbox import Publication, StreamMark
from cdv_core.ports.records import IdempotentReply
from conformance.ports.stores import ALICE, BOB, START, Stores, a_record, an_asset, its_event
from tests.adapters.postgres_stores import PostgresStores, open_postgres

# A deferred trigger runs during the commit: after the sequence is assigned, before others can see the entry.
DELAY_COMMITS = """
CREATE FUNCTION delay() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER delay AFTER INSERT ON op_log DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION delay();
"""
GATE = 4711


@pytest.fixture
async def replicas(postgres_dsn: str) -> AsyncIterator[tuple[PostgresStores, PostgresStores]]:
    await migrate(postgres_dsn)
    options = PostgresOptions(max_size=12)
    async with open_postgres(postgres_dsn, options) as one, open_postgres(postgres_dsn, options) as other:
        yield one, other


@pytest.fixture
async def operator(postgres_dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
        yield connection


async def create(
    stores: Stores, number: int, did: Did = ALICE, retryable: IdempotentReply | None = None
) -> bytes | None:
    record = a_record(number, did)
    return await stores.records.create(record, replace(its_event(record), event_id=f"{did}{number}"), retryable)


async def logged(stores: Stores) -> list[str]:
    return [entry.event.event_id for entry in await stores.outbox.read(0, 10_000)]


async def until_waiting_for(operator: psycopg.AsyncConnection, lock: str) -> None:
    """Return once a session of the database waits for a lock of this kind."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = %s"
    async with asyncio.timeout(30):
        while (await (await operator.execute(waiting, (lock,))).fetchone()) == (0,):
            pass


async def test_a_write_waits_for_earlier_writes_of_its_own_did_only(replicas, operator):
    one, other = replicas
    await create(one, 0)  # so that the second write waits for the account's lock, not for its creation
    gate = f"IF NEW.event_id = '{ALICE}1' THEN PERFORM pg_advisory_xact_lock({GATE}); END IF;"
    await operator.execute(DELAY_COMMITS.format(gate).encode())
    await operator.execute("SELECT pg_advisory_lock(%s)", (GATE,))
    async with asyncio.TaskGroup() as writers:
        first = writers.create_task(create(one, 1))
        await until_waiting_for(operator, "advisory")
        second = writers.create_task(create(other, 2))
        await until_waiting_for(operator, "transactionid")
        await create(other, 3, BOB)
        assert not first.done()
        assert not second.done()
        assert await logged(one) == [f"{ALICE}0", f"{BOB}3"]
        await operator.execute("SELECT pg_advisory_unlock(%s)", (GATE,))
    assert await logged(one) == [f"{ALICE}0", f"{ALICE}1", f"{BOB}3", f"{ALICE}2"]


async def test_concurrent_readers_always_see_a_prefix_of_the_final_op_log_per_did(replicas, operator):
    await operator.execute(DELAY_COMMITS.format("PERFORM pg_sleep(random() / 100);").encode())
    dids, numbers, moments = [ALICE, BOB], count(), list[list[str]]()
    choices = random.Random(3)

    async def write(stores: Stores) -> None:
        for _ in range(15):
            await create(stores, next(numbers), choices.choice(dids))

    async def watch() -> None:
        while True:
            moments.append(await logged(replicas[0]))

    watcher = asyncio.create_task(watch())
    await asyncio.gather(*(write(stores) for stores in replicas * 4))
    watcher.cancel()
    final = await logged(replicas[0])
    assert len(final) == 8 * 15
    for did in dids:
        log = [event for event in final if event.startswith(did)]
        for moment in moments:
            visible = [event for event in moment if event.startswith(did)]
            assert visible == log[: len(visible)]


async def test_concurrent_first_writes_of_one_did_all_succeed(replicas):
    calls: list[Coroutine[object, object, object]] = [
        create(stores, number) for number, stores in enumerate(replicas * 8)
    ]
    calls += [stores.media.add(an_asset(number)) for number, stores in enumerate(replicas * 4)]
    await asyncio.gather(*calls)
    assert len((await replicas[0].records.list(ListQuery(ALICE, 100))).records) == 16


async def test_24_concurrent_writes_with_one_key_store_one_record_and_return_one_reply(replicas):
    key, expires_at = IdempotencyKey("k"), START + timedelta(days=1)
    offers = [IdempotentReply(key, b"f" * 32, f"reply {number}".encode(), expires_at) for number in range(24)]
    answers = await asyncio.gather(
        *(create(stores, number, retryable=offers[number]) for number, stores in enumerate(replicas * 12))
    )
    winner = answers.index(None)
    assert answers.count(None) == 1
    assert {answer for answer in answers if answer is not None} == {offers[winner].reply}
    assert await logged(replicas[0]) == [f"{ALICE}{winner}"]
    assert len((await replicas[0].records.list(ListQuery(ALICE, 100))).records) == 1


async def test_of_concurrent_different_requests_with_one_key_all_but_one_are_refused(replicas):
    key, expires_at = IdempotencyKey("k"), START + timedelta(days=1)
    outcomes = await asyncio.gather(
        *(
            create(stores, number, retryable=IdempotentReply(key, bytes([number]) * 32, b"reply", expires_at))
            for number, stores in enumerate(replicas * 6)
        ),
        return_exceptions=True,
    )
    assert outcomes.count(None) == 1
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [IdempotencyConflict] * 11
    assert len(await logged(replicas[0])) == 1


async def test_an_expired_key_is_reused_by_exactly_one_concurrent_write(replicas):
    key = IdempotencyKey("k")
    await create(replicas[0], 0, retryable=IdempotentReply(key, b"f" * 32, b"old", START + timedelta(seconds=1)))
    answers = await asyncio.gather(
        *(
            create(stores, number, retryable=IdempotentReply(key, b"g" * 32, b"new", START + timedelta(days=1)))
            for number, stores in enumerate(replicas * 6, 1)
        )
    )
    assert answers.count(None) == 1
    assert answers.count(b"new") == 11


async def test_a_replica_whose_clock_is_a_day_ahead_expires_no_live_replies_or_assets(replicas):
    here, ahead = replicas
    now = datetime.now(UTC)
    key = IdempotentReply(IdempotencyKey("live"), b"f" * 32, b"{}", now + timedelta(hours=24))
    await create(here, 1, retryable=key)
    asset = an_asset(1, expires_at=now + timedelta(minutes=15))
    await here.media.add(asset)
    its_now = now + timedelta(hours=25)
    assert await ahead.records.purge_expired_replies(its_now, 100) == 0
    assert await ahead.media.expire(its_now, 100) == []
    assert await here.media.find(asset.asset_id) == asset
    assert await here.records.find_reply(ALICE, key.key, key.fingerprint, now) == b"{}"


async def test_a_key_purged_during_a_conflicting_write_counts_as_new(replicas, operator):
    retryable = IdempotentReply(IdempotencyKey("k"), b"f" * 32, b"reply", START + timedelta(days=1))
    await create(replicas[0], 1, retryable=retryable)
    purge = (
        "CREATE FUNCTION purge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM replies; RETURN NULL; END $$"
    )
    await operator.execute(purge.encode())
    # Between the statement that finds the key in use and the one that reads its reply.
    await operator.execute(b"CREATE TRIGGER purge AFTER INSERT ON records FOR EACH STATEMENT EXECUTE FUNCTION purge()")
    assert await create(replicas[1], 2, retryable=retryable) is None
    assert await logged(replicas[0]) == [f"{ALICE}1", f"{ALICE}2"]


async def test_concurrent_finalisations_of_an_asset_are_logged_once(replicas):
    asset = an_asset(1)
    await replicas[0].media.add(asset)
    checksums = ["0" * 64, "f" * 64]
    claimed = await asyncio.gather(
        *(stores.media.claim(asset.asset_id, checksums[number % 2]) for number, stores in enumerate(replicas * 4))
    )
    assert len({asset.checksum for asset in claimed if asset is not None}) == 1
    finalized = await asyncio.gather(
        *(stores.media.finalize(asset.asset_id, its_event(asset, number)) for number, stores in enumerate(replicas * 4))
    )
    assert [asset.state for asset in finalized if asset is not None] == [AssetState.FINALIZED] * 8
    assert len(await logged(replicas[0])) == 1


async def test_an_asset_is_either_finalised_or_expired(replicas):
    assets = [an_asset(number) for number in range(24)]
    for asset in assets:
        await replicas[0].media.add(asset)
        await replicas[0].media.claim(asset.asset_id, "0" * 64)
    outcomes = await asyncio.gather(
        *(replicas[number % 2].media.finalize(asset.asset_id, its_event(asset)) for number, asset in enumerate(assets)),
        *(replicas[number % 2].media.expire(START + timedelta(hours=1), 100) for number in range(6)),
    )
    finalized = {asset.asset_id for asset in outcomes[:24] if asset.state is AssetState.FINALIZED}
    expired = {asset.asset_id for asset in chain.from_iterable(outcomes[24:]) if asset.state is AssetState.EXPIRED}
    assert finalized | expired == {asset.asset_id for asset in assets}
    assert not finalized & expired
    assert len(await logged(replicas[0])) == len(finalized)


async def test_one_relay_leases_at_a_time(replicas):
    await create(replicas[0], 1)
    leased = await asyncio.gather(
        *(
            stores.outbox.lease(f"relay {number}", 10, now=START, expires_at=START + timedelta(seconds=9))
            for number, stores in enumerate(replicas * 6)
        )
    )
    assert sum(entries is not None for entries in leased) == 1


async def test_a_relay_that_lost_its_lease_marks_and_requeues_nothing(replicas):
    one, other = (stores.outbox for stores in replicas)
    await create(replicas[0], 1)
    ((entry,),) = [await one.lease("slow", 10, now=START, expires_at=START)]
    assert await other.lease("next", 10, now=START, expires_at=START) == [entry]
    assert not await one.mark_published(
        "slow", [Publication(entry.sequence, 1, START)], [StreamMark("RA_RECORDS", "today", 1)]
    )
    assert not await one.requeue("slow", [entry.sequence])
    assert await one.stream_marks() == []
    assert (await one.backlog()).count == 1


async def test_overlapping_mark_published_calls_all_take_effect(replicas):
    """Concurrent calls of the lease holder: no update is lost to a stale read of the rows."""
    for number in range(40):
        await create(replicas[0], number)
    entries = await replicas[0].outbox.lease("relay", 100, now=START, expires_at=START) or []
    publications = [Publication(entry.sequence, entry.sequence + 1000, START) for entry in entries]
    done = await asyncio.gather(
        *(
            stores.outbox.mark_published("relay", publications[number:], [StreamMark("RA_RECORDS", "today", number)])
            for number, stores in enumerate(replicas * 6)
        )
    )
    assert all(done)
    assert [entry.stream_sequence for entry in await replicas[0].outbox.read(0, 100)] == [
        stream_sequence for _, stream_sequence, _ in publications
    ]
