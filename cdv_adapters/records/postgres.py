"""Records in Postgres: each write is one statement, so that it happens whole or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from cdv_adapters.database.group_commit import GroupCommit, Row
from cdv_adapters.database.postgres import PostgresDatabase
from cdv_core.domain.events import Event
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import Did, Nsid, RecordKey, RecordUri
from cdv_core.domain.records import Listing, NewRecord, StoredRecord
from cdv_core.errors import IdempotencyConflict
from cdv_core.ports.records import RecordStore, Retryable

# One statement for any number of creates, so that they share a round trip, a plan and a commit, and happen all or not
# at all. `n` is the order of arrival. Accounts are locked in one order everywhere, so groups never wait for each other
# in a ring. A reply whose life has ended makes room. Of concurrent calls with one key, all but the first meet its reply
# in `kept`, although this statement began before it was committed: ON CONFLICT looks at what is there now.
_CREATE: Final = """
WITH batch AS MATERIALIZED (
    SELECT * FROM ROWS FROM (json_to_recordset(%s::json) AS (
        did text, collection text, rkey text, cid text, value json, indexed_at timestamptz, schema_version text,
        created_at timestamptz, event_id text, subject text, envelope json, traceparent text, key text,
        fingerprint text, reply text, expires_at timestamptz
    )) WITH ORDINALITY AS rows (
        did, collection, rkey, cid, value, indexed_at, schema_version, created_at, event_id, subject, envelope,
        traceparent, key, fingerprint, reply, expires_at, n
    )
),
account AS (
    INSERT INTO accounts (did, created_at) SELECT did, min(indexed_at) FROM batch GROUP BY did ORDER BY did
    ON CONFLICT (did) DO UPDATE SET created_at = excluded.created_at WHERE false
    RETURNING did
),
turn AS (SELECT count(*) FROM account),
kept AS (
    INSERT INTO replies (did, key, fingerprint, reply, expires_at)
    SELECT did, key, decode(fingerprint, 'hex'), decode(reply, 'hex'), expires_at FROM batch, turn
    WHERE key IS NOT NULL ORDER BY did, key
    ON CONFLICT (did, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, reply = excluded.reply, expires_at = excluded.expires_at
    WHERE replies.expires_at <= (
        SELECT indexed_at FROM batch WHERE batch.did = excluded.did AND batch.key = excluded.key
    )
    RETURNING did, key
),
fresh AS MATERIALIZED (
    SELECT batch.* FROM batch, turn WHERE key IS NULL OR (did, key) IN (SELECT did, key FROM kept)
),
stored AS (
    INSERT INTO records (did, collection, rkey, cid, value, indexed_at, schema_version, created_at)
    SELECT did, collection, rkey, cid, value, indexed_at, schema_version, created_at FROM fresh
)
INSERT INTO op_log (event_id, did, subject, envelope, occurred_at, traceparent)
SELECT event_id, did, subject, envelope, indexed_at, traceparent FROM fresh ORDER BY n
RETURNING event_id"""

_FIND_REPLY: Final = "SELECT fingerprint, reply FROM replies WHERE did = %s AND key = %s AND expires_at > %s"
# Rows that another caller is removing are left to it. ARRAY: a plain IN might run the subquery, and lock, repeatedly.
_PURGE_REPLIES: Final = """
DELETE FROM replies WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM replies WHERE expires_at <= %s ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
))"""

_SELECT: Final = "SELECT did, collection, rkey, cid, value, indexed_at, schema_version, created_at FROM records "
FIND: Final = f"{_SELECT} WHERE did = %s AND collection = %s AND rkey = %s"
_SCAN: Final = f"{_SELECT} WHERE (did, collection, rkey) > (%s, %s, %s) ORDER BY did, collection, rkey LIMIT %s"
# What record_json writes. No identifier, version or time has a character that JSON would escape.
_TIME: Final = """to_char({}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_AS_JSON: Final = f"""
SELECT convert_to(
    '{{"uri":"at://' || did || '/' || collection || '/' || rkey || '","cid":"' || cid || '","value":' || value
    || ',"indexedAt":"' || {_TIME.format("indexed_at")} || '","schemaVersion":"' || schema_version || '"'
    || coalesce(',"createdAt":"' || {_TIME.format("created_at")} || '"', '') || '}}',
    'UTF8'
)
FROM records """  # noqa: S608 - constants
# One upper bound and no more, so that there is one place where the index scan can begin.
_PAGE: Final = """
AND collection <> ALL (%(hidden)s::text[])
AND indexed_at >= %(since)s AND (indexed_at, rkey) < (%(before_time)s, %(before_rkey)s)
ORDER BY indexed_at DESC, rkey DESC LIMIT %(limit)s"""
_LIST: Final = f"{_AS_JSON} WHERE did = %(did)s {_PAGE}"
_LIST_COLLECTION: Final = f"{_AS_JSON} WHERE did = %(did)s AND collection = %(collection)s {_PAGE}"

_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_ABOVE_EVERY_RKEY: Final = "\x7f"


class PostgresRecordStore(RecordStore):
    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._group = GroupCommit(self._write)

    async def create(self, record: NewRecord, event: Event, retryable: Retryable | None = None) -> bytes | None:
        if await self._group.stored(_row(record, event, retryable)):
            return None
        assert retryable is not None, "only what has a key can have been answered before"  # noqa: S101
        earlier = await self.find_reply(record.uri.did, retryable.key, retryable.fingerprint, record.indexed_at)
        # None: it was purged in between, by the clock of another replica. Nothing was stored, and the key is new again.
        return await self.create(record, event, retryable) if earlier is None else earlier

    async def _write(self, rows_json: bytes) -> list[str]:
        return [event_id for (event_id,) in await self._database.rows(_CREATE, (rows_json.decode(),))]

    async def find_reply(self, did: Did, key: IdempotencyKey, fingerprint: bytes, now: datetime) -> bytes | None:
        rows = await self._database.rows(_FIND_REPLY, (did, key, now))
        if not rows:
            return None
        ((kept_fingerprint, reply),) = rows
        if kept_fingerprint != fingerprint:
            raise IdempotencyConflict(key)
        return bytes(reply)

    async def find(self, uri: RecordUri) -> StoredRecord | None:
        rows = await self._database.rows(FIND, (uri.did, uri.collection, uri.rkey))
        return _stored(rows[0]) if rows else None

    async def list(self, listing: Listing) -> list[bytes]:
        return [encoded for (encoded,) in await self._database.rows(*listing_query(listing))]

    async def scan(self, batch_size: int = 1000) -> AsyncIterator[StoredRecord]:
        after = ("", "", "")
        while rows := await self._database.rows(_SCAN, (*after, batch_size)):
            for row in rows:
                yield _stored(row)
            after = rows[-1][:3]

    async def purge_expired_replies(self, now: datetime, limit: int) -> int:
        return await self._database.run(_PURGE_REPLIES, (now, limit))


def _row(record: NewRecord, event: Event, retryable: Retryable | None) -> Row:
    uri = record.uri
    return Row(
        str(uri.did),
        str(uri.collection),
        str(uri.rkey),
        record.cid,
        msgspec.Raw(record.value_json),
        record.indexed_at,
        record.schema_version,
        record.created_at,
        event.event_id,
        event.subject,
        msgspec.Raw(event.envelope),
        event.traceparent,
        *(
            (str(retryable.key), retryable.fingerprint.hex(), retryable.reply.hex(), retryable.expires_at)
            if retryable
            else ()
        ),
    )


def listing_query(listing: Listing) -> tuple[str, dict[str, Any]]:
    """Return the query and its parameters: whatever is asked for, one of two, so that both are prepared once."""
    until, after = listing.until or _LATEST, listing.after
    before = (until, _ABOVE_EVERY_RKEY)
    if after is not None and after.indexed_at <= until:
        before = (after.indexed_at, after.rkey)
    parameters = {
        "did": listing.did,
        "hidden": list(listing.hidden),
        "since": listing.since or _EARLIEST,
        "before_time": before[0],
        "before_rkey": before[1],
        "limit": listing.limit,
    }
    if listing.collection is None:
        return _LIST, parameters
    return _LIST_COLLECTION, {**parameters, "collection": listing.collection}


def _stored(row: tuple[Any, ...]) -> StoredRecord:
    did, collection, rkey, *rest = row
    return StoredRecord(RecordUri(Did(did), Nsid(collection), RecordKey(rkey)), *rest)
