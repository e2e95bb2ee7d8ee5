"""SQLite's query plans for our statements."""

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest

from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.media.sqlite import SqliteMediaStore
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_adapters.records.sqlite import SqliteRecordStore
from cdv_core.domain.cursors import Cursor
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.records import ListQuery
from cdv_core.ports.outbox import Backlog, Publication
from cdv_core.ports.records import IdempotentReply
from conformance.ports.stores import ALICE, FLAG, LIKE, POST, START, a_record, an_asset, as_stored, its_event, ulid

# Conditions of listings, and how a query plan shows that an index serves them.
BOUNDS = {
    "AND collection = '": "collection=?",
    "indexed_at >= ": "indexed_at>?",
    "indexed_at <= ": "indexed_at<?",
    "(indexed_at, rkey) < ": "(indexed_at,rkey)<(?,?)",
}


async def use_every_method(database: SqliteDatabase) -> None:
    records, media, outbox = SqliteRecordStore(database), SqliteMediaStore(database), SqliteOutbox(database)
    record, asset = a_record(1), an_asset(2)
    retryable = IdempotentReply(IdempotencyKey("key"), b"fingerprint", b"reply", START)
    await records.create(record, its_event(record), retryable)
    await records.find(record.uri)
    await records.find_reply(ALICE, retryable.key, b"fingerprint", START)
    await records.purge_expired_replies(START, 10)
    assert [stored async for stored in records.scan()] == [as_stored(record)]
    for listing in listings():
        await records.list(listing)
    await media.add(asset)
    await media.claim(asset.asset_id, "c" * 64)
    await media.finalize(asset.asset_id, its_event(asset))
    await media.expire(START + timedelta(1), 10)
    await media.mark_swept([asset.asset_id])
    await outbox.lease("relay", 10, now=START, expires_at=START)
    await outbox.mark_published("relay", [Publication(1, 1, START)])
    await outbox.requeue("relay", [1])
    await outbox.read(0, 10, "cdv.records.")
    await outbox.backlog()
    await outbox.release("relay")


def listings() -> Iterator[ListQuery]:
    """Yield a listing for every form of the query."""
    cursor = Cursor(START, ulid(5))
    collections = (None, frozenset[Nsid]()), (None, frozenset({FLAG, LIKE})), (POST, frozenset[Nsid]())
    earlier = START - timedelta(days=1)
    for collection, hidden in collections:
        for since, until, after in product((None, START), (None, earlier, START), (None, cursor)):
            yield ListQuery(ALICE, 25, collection, hidden, since, until, after)


def explain(connection: sqlite3.Connection, statements: set[str]) -> dict[str, str]:
    """Return SQLite's plan for each statement that has one."""
    queries = [it for it in statements if it.split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}]
    return {query: str([row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]) for query in queries}


async def test_no_statement_sorts_or_reads_a_whole_table(tmp_path: Path):
    statements: set[str] = set()
    async with SqliteDatabase(tmp_path / "vault.sqlite3") as database:
        for connection in database._connections:
            connection.set_trace_callback(statements.add)
        await use_every_method(database)
        for connection in database._connections:
            connection.set_trace_callback(None)
        plans = await database.read(lambda connection: explain(connection, statements))

    assert len(plans) > 40
    assert {query: plan for query, plan in plans.items() if "TEMP B-TREE" in plan} == {}
    # A listing's conditions are looked up in the index, not filtered afterwards.
    for query, plan in plans.items():
        for condition, looked_up in BOUNDS.items():
            assert condition not in query or looked_up in plan, (query, plan)
    # The index holds only unpublished entries; the table has at most one row.
    scans = {plan for plan in plans.values() if "SCAN" in plan}
    assert scans == {
        "['SCAN op_log USING INDEX op_log_unpublished']",
        "['CO-ROUTINE (subquery-1)', 'SCAN op_log USING INDEX op_log_unpublished', 'SCAN (subquery-1)']",
        "['SCAN relay_lease']",
    }


async def test_the_backlog_count_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdv_adapters.outbox.sqlite.BACKLOG_MAX", 2)
    async with SqliteDatabase(tmp_path / "vault.sqlite3") as database:
        for number in range(3):
            record = a_record(number)
            await SqliteRecordStore(database).create(record, its_event(record))
        assert await SqliteOutbox(database).backlog() == Backlog(2, a_record(0).indexed_at)
