"""Records in Postgres: each write is one statement, so that it happens whole or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from cdv_adapters.database.postgres import LOCK_ACCOUNT, LOG_EVENT, PostgresDatabase, event_parameters
from cdv_core.domain.events import Event
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import Did, Nsid, RecordKey, RecordUri
from cdv_core.domain.records import Listing, NewRecord, StoredRecord
from cdv_core.errors import IdempotencyConflict
from cdv_core.ports.records import RecordStore, Retryable

# A reply whose life has ended makes room. Of concurrent calls with one key, all but the first meet its reply here,
# although this statement began before it was committed: ON CONFLICT looks at what is there now.
_KEEP_REPLY: Final = """,
kept AS (
    INSERT INTO replies (did, key, fingerprint, reply, expires_at)
    SELECT %(did)s, %(key)s, %(fingerprint)s, %(reply)s, %(expires_at)s FROM turn
    ON CONFLICT (did, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, reply = excluded.reply, expires_at = excluded.expires_at
    WHERE replies.expires_at <= %(indexed_at)s
    RETURNING did
)"""
_STORE: Final = """,
stored AS (
    INSERT INTO records (did, collection, rkey, cid, value, indexed_at, schema_version, created_at)
    SELECT %(did)s, %(collection)s, %(rkey)s, %(cid)s, %(value)s::json, %(indexed_at)s, %(schema_version)s,
        %(created_at)s::timestamptz FROM """
_LOG: Final = f" RETURNING did){LOG_EVENT}stored"

_CREATE: Final = f"WITH{LOCK_ACCOUNT}{_STORE}turn{_LOG}"
_CREATE_ONCE: Final = f"WITH{LOCK_ACCOUNT}{_KEEP_REPLY}{_STORE}kept{_LOG}"

_FIND_REPLY: Final = "SELECT fingerprint, reply FROM replies WHERE did = %s AND key = %s AND expires_at > %s"
# Rows that another caller is removing are left to it. ARRAY: a plain IN might run the subquery, and lock, repeatedly.
_PURGE_REPLIES: Final = """
DELETE FROM replies WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM replies WHERE expires_at <= %s ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
))"""

_SELECT: Final = "SELECT did, collection, rkey, cid, value, indexed_at, schema_version, created_at FROM records "
_FIND: Final = f"{_SELECT} WHERE did = %s AND collection = %s AND rkey = %s"
_SCAN: Final = f"{_SELECT} WHERE (did, collection, rkey) > (%s, %s, %s) ORDER BY did, collection, rkey LIMIT %s"
# One upper bound and no more, so that there is one place where the index scan can begin.
_PAGE: Final = """
AND collection <> ALL (%(hidden)s::text[])
AND indexed_at >= %(since)s AND (indexed_at, rkey) < (%(before_time)s, %(before_rkey)s)
ORDER BY indexed_at DESC, rkey DESC LIMIT %(limit)s"""
_LIST: Final = f"{_SELECT} WHERE did = %(did)s {_PAGE}"
_LIST_COLLECTION: Final = f"{_SELECT} WHERE did = %(did)s AND collection = %(collection)s {_PAGE}"

_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_ABOVE_EVERY_RKEY: Final = "\x7f"


class PostgresRecordStore(RecordStore):
    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def create(self, record: NewRecord, event: Event, retryable: Retryable | None = None) -> bytes | None:
        parameters = {
            **event_parameters(event),
            "collection": record.uri.collection,
            "rkey": record.uri.rkey,
            "cid": record.cid,
            "value": record.value_json.decode(),
            "indexed_at": record.indexed_at,
            "schema_version": record.schema_version,
            "created_at": record.created_at,
        }
        if retryable is None:
            await self._database.run(_CREATE, parameters)
            return None
        parameters |= {
            "key": retryable.key,
            "fingerprint": retryable.fingerprint,
            "reply": retryable.reply,
            "expires_at": retryable.expires_at,
        }
        if await self._database.run(_CREATE_ONCE, parameters) == 1:
            return None
        earlier = await self.find_reply(record.uri.did, retryable.key, retryable.fingerprint, record.indexed_at)
        # None: it was purged in between, by the clock of another replica. Nothing was stored, and the key is new again.
        return await self.create(record, event, retryable) if earlier is None else earlier

    async def find_reply(self, did: Did, key: IdempotencyKey, fingerprint: bytes, now: datetime) -> bytes | None:
        rows = await self._database.rows(_FIND_REPLY, (did, key, now))
        if not rows:
            return None
        ((kept_fingerprint, reply),) = rows
        if kept_fingerprint != fingerprint:
            raise IdempotencyConflict(key)
        return bytes(reply)

    async def find(self, uri: RecordUri) -> StoredRecord | None:
        rows = await self._database.rows(_FIND, (uri.did, uri.collection, uri.rkey))
        return _stored(rows[0]) if rows else None

    async def list(self, listing: Listing) -> list[StoredRecord]:
        return [_stored(row) for row in await self._database.rows(*listing_query(listing))]

    async def scan(self, batch_size: int = 1000) -> AsyncIterator[StoredRecord]:
        after = ("", "", "")
        while rows := await self._database.rows(_SCAN, (*after, batch_size)):
            for row in rows:
                yield _stored(row)
            after = rows[-1][:3]

    async def purge_expired_replies(self, now: datetime, limit: int) -> int:
        return await self._database.run(_PURGE_REPLIES, (now, limit))


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
