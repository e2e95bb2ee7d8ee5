"""Records in the vault's SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from cdv_adapters.database.sqlite import SqliteDatabase, append_op_log, ensure_account, from_micros, to_micros
from cdv_core.domain.events import Event
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import Did, Nsid, RecordKey, RecordUri
from cdv_core.domain.limits import PAGE_MAX_BYTES
from cdv_core.domain.records import ListQuery, ListResult, NewRecord, StoredRecord, record_json
from cdv_core.errors import IdempotencyConflict
from cdv_core.ports.records import IdempotentReply, RecordStore

_SELECT = "SELECT did, collection, rkey, cid, value, indexed_at, schema_version, created_at FROM records"


class SqliteRecordStore(RecordStore):
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def create(self, record: NewRecord, event: Event, retryable: IdempotentReply | None = None) -> bytes | None:
        def work(connection: sqlite3.Connection) -> bytes | None:
            did, now = record.uri.did, record.indexed_at
            if retryable is not None:
                earlier = _live_reply(connection, did, retryable.key, retryable.fingerprint, now)
                if earlier is not None:
                    return earlier
            ensure_account(connection, did, now)
            connection.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _row(record))
            append_op_log(connection, event)
            if retryable is not None:
                # OR REPLACE: an expired reply may still have this key.
                connection.execute(
                    "INSERT OR REPLACE INTO replies (did, key, fingerprint, reply, expires_at) VALUES (?, ?, ?, ?, ?)",
                    (did, retryable.key, retryable.fingerprint, retryable.reply, to_micros(retryable.expires_at)),
                )
            return None

        return await self._database.write(work)

    async def find_reply(self, did: Did, key: IdempotencyKey, fingerprint: bytes, now: datetime) -> bytes | None:
        return await self._database.read(lambda connection: _live_reply(connection, did, key, fingerprint, now))

    async def find(self, uri: RecordUri) -> StoredRecord | None:
        rows = await self._rows(
            f"{_SELECT} WHERE did = ? AND collection = ? AND rkey = ?", (uri.did, uri.collection, uri.rkey)
        )
        return _stored(rows[0]) if rows else None

    async def list(self, listing: ListQuery) -> ListResult:
        def work(connection: sqlite3.Connection) -> ListResult:
            records: list[bytes] = []
            size = 0
            for row in connection.execute(*listing_query(listing)):
                record = record_json(_stored(row))
                size += len(record)
                if records and (len(records) == listing.limit or size > PAGE_MAX_BYTES):
                    return ListResult(records, more=True)
                records.append(record)
            return ListResult(records, more=False)

        return await self._database.read(work)

    async def scan(self, batch_size: int = 100) -> AsyncIterator[StoredRecord]:
        after = ("", "", "")
        query = f"{_SELECT} WHERE (did, collection, rkey) > (?, ?, ?) ORDER BY did, collection, rkey LIMIT ?"
        while rows := await self._rows(query, (*after, batch_size)):
            for row in rows:
                yield _stored(row)
            after = rows[-1][:3]

    async def purge_expired_replies(self, now: datetime, limit: int) -> int:
        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM replies WHERE (did, key) IN "
                "(SELECT did, key FROM replies WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
                (to_micros(now), limit),
            ).rowcount

        return await self._database.write(work)

    async def _rows(self, query: str, parameters: tuple[Any, ...]) -> Any:  # noqa: ANN401 - rows are what SQLite gives
        return await self._database.read(lambda connection: connection.execute(query, parameters).fetchall())


def listing_query(listing: ListQuery) -> tuple[str, tuple[object, ...]]:
    """Return the query and its parameters. It asks for one record more than the limit.

    Every form of the query scans one index backwards and needs no sort.
    """
    after, until = listing.after, listing.until
    terms: list[tuple[str, tuple[object, ...]]] = [("did = ?", (listing.did,))]
    if listing.collection is not None:
        terms.append(("collection = ?", (listing.collection,)))
    if listing.hidden:
        terms.append((f"collection NOT IN ({', '.join('?' * len(listing.hidden))})", tuple(listing.hidden)))
    if listing.since is not None:
        terms.append(("indexed_at >= ?", (to_micros(listing.since),)))
    # Only the narrower upper bound: given both, SQLite might start the scan at the wider one for every page.
    if after is not None and (until is None or after.indexed_at <= until):
        terms.append(("(indexed_at, rkey) < (?, ?)", (to_micros(after.indexed_at), after.rkey)))
    elif until is not None:
        terms.append(("indexed_at <= ?", (to_micros(until),)))
    where = " AND ".join(condition for condition, _ in terms)
    query = f"{_SELECT} WHERE {where} ORDER BY indexed_at DESC, rkey DESC LIMIT ?"
    return query, (*(value for _, values in terms for value in values), listing.limit + 1)


def _live_reply(
    connection: sqlite3.Connection, did: Did, key: IdempotencyKey, fingerprint: bytes, now: datetime
) -> bytes | None:
    row = connection.execute(
        "SELECT fingerprint, reply FROM replies WHERE did = ? AND key = ? AND expires_at > ?",
        (did, key, to_micros(now)),
    ).fetchone()
    if row is None:
        return None
    kept, reply = row
    if kept != fingerprint:
        raise IdempotencyConflict(key)
    return bytes(reply)


def _row(record: NewRecord) -> tuple[object, ...]:
    return (
        *(record.uri.did, record.uri.collection, record.uri.rkey),
        record.cid,
        record.value_json,
        to_micros(record.indexed_at),
        record.schema_version,
        None if record.created_at is None else to_micros(record.created_at),
    )


def _stored(row: tuple[Any, ...]) -> StoredRecord:
    did, collection, rkey, cid, value, indexed_at, schema_version, created_at = row
    return StoredRecord(
        RecordUri(Did(did), Nsid(collection), RecordKey(rkey)),
        cid,
        value,
        from_micros(indexed_at),
        schema_version,
        None if created_at is None else from_micros(created_at),
    )
