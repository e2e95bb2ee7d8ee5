"""Records in Postgres: each write is one statement, so that it happens whole or not at all."""

# ruff: noqa: S608 - queries are put together from constants

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import msgspec
import psycopg
from msgspec.structs import replace

from cdv_adapters.database.batching import Batcher
from cdv_adapters.database.group_commit import GroupCommit, Row
from cdv_adapters.database.postgres import PostgresDatabase
from cdv_core.domain.events import Event
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import Did, Nsid, RecordKey, RecordUri
from cdv_core.domain.limits import PAGE_MAX_BYTES
from cdv_core.domain.records import ListQuery, ListResult, NewRecord, StoredRecord
from cdv_core.errors import IdempotencyConflict, Unavailable
from cdv_core.ports.records import IdempotentReply, RecordStore

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
    SELECT ctid FROM replies WHERE expires_at <= least(%s, now()) ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
))"""

_COLUMNS: Final = "did, collection, rkey, cid, value, indexed_at, schema_version, created_at"
_SCAN: Final = f"""
SELECT {_COLUMNS} FROM records WHERE (did, collection, rkey) > (%s, %s, %s) ORDER BY did, collection, rkey LIMIT %s"""
# What record_json writes. No identifier, version or time has a character that JSON would escape.
_TIME: Final = """to_char({}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_AS_JSON: Final = f"""convert_to(
    '{{"uri":"at://' || did || '/' || collection || '/' || rkey || '","cid":"' || cid || '","value":' || value
    || ',"indexedAt":"' || {_TIME.format("indexed_at")} || '","schemaVersion":"' || schema_version || '"'
    || coalesce(',"createdAt":"' || {_TIME.format("created_at")} || '"', '') || '}}',
    'UTF8'
)"""


def find_query(did: str, collection: str, rkey: str) -> str:
    """Return the query for one record; the arguments are SQL."""
    return f"SELECT {_COLUMNS} FROM records WHERE did = {did} AND collection = {collection} AND rkey = {rkey}"


def page_query(
    *, did: str, collection: str | None, hidden: str, since: str, before_time: str, before_rkey: str, page: str
) -> str:
    """Return the query for one page, strictly before a place; the arguments are SQL, `collection` None for all."""
    in_collection = "" if collection is None else f"AND collection = {collection}"
    # One upper bound and no more, so that there is one place where the index scan can begin.
    return f"""
    SELECT {_AS_JSON} FROM records WHERE did = {did} {in_collection} AND collection <> ALL ({hidden}::text[])
    AND indexed_at >= {since} AND (indexed_at, rkey) < ({before_time}, {before_rkey})
    ORDER BY indexed_at DESC, rkey DESC LIMIT {page}"""


# Any number of questions in one statement; `n` is whose answer it is. Each is a subquery of its own, which Postgres can
# only answer by the index: LIMIT and ARRAY keep it from being made part of a join.
FIND_ALL: Final = f"""
SELECT n, it.* FROM ROWS FROM (json_to_recordset(%s::json) AS (
    did text COLLATE "C", collection text COLLATE "C", rkey text COLLATE "C"
)) WITH ORDINALITY AS asked (did, collection, rkey, n),
LATERAL ({find_query("asked.did", "asked.collection", "asked.rkey")} LIMIT 1) AS it"""


def _list_all(collection: str | None) -> str:
    asked = {name: f"asked.{name}" for name in ("did", "since", "before_time", "before_rkey", "page")}
    # A page that is too large stays where it is, and its size is told; not one of a single record and the one after it.
    return f"""
SELECT n, CASE WHEN pg_column_size(found) <= {PAGE_MAX_BYTES} OR page <= 2 THEN found END, pg_column_size(found) FROM (
    SELECT n, page, ARRAY ({page_query(collection=collection, hidden="%(hidden)s", **asked)}) AS found
    FROM ROWS FROM (json_to_recordset(%(listings)s::json) AS (
        did text COLLATE "C", collection text COLLATE "C", since timestamptz, before_time timestamptz,
        before_rkey text COLLATE "C", page integer
    )) WITH ORDINALITY AS asked (did, collection, since, before_time, before_rkey, page, n)
    OFFSET 0
) AS pages"""


_LIST: Final = _list_all(None)
_LIST_COLLECTION: Final = _list_all("asked.collection")

_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_LATEST: Final = datetime.max.replace(tzinfo=UTC)
_ABOVE_EVERY_RKEY: Final = "\x7f"
_FINDS_MAX: Final = 64  # ours
_LISTINGS_MAX: Final = 16  # ours: more would have the first wait for the last
_ROWS_MAX: Final = 400  # ours: four of the largest pages


# The encoded records, one more than the limit if there are, or None if they are too large; and how large they are.
_Answered: TypeAlias = tuple[list[bytes] | None, int]


class _Place(msgspec.Struct, frozen=True):
    did: str
    collection: str
    rkey: str


class _Asked(msgspec.Struct, frozen=True):
    """A listing as a member of the statement's JSON: up to `page` records strictly before a place."""

    did: str
    collection: str | None
    since: datetime
    before_time: datetime
    before_rkey: str
    page: int


class PostgresRecordStore(RecordStore):
    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database
        self._group = GroupCommit(self._write)
        self._finds = Batcher(self._find_all, _anyone, most=_FINDS_MAX)
        self._listings = Batcher(self._list_all, _alike, most=_LISTINGS_MAX, each_alone_after=_took_too_long)

    async def create(self, record: NewRecord, event: Event, retryable: IdempotentReply | None = None) -> bytes | None:
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
        return await self._finds.ask(uri)

    async def _find_all(self, uris: Sequence[RecordUri]) -> list[StoredRecord | None]:
        places = [_Place(str(it.did), str(it.collection), str(it.rkey)) for it in uris]
        rows = await self._database.rows(FIND_ALL, (msgspec.json.encode(places).decode(),))
        found = {n: _stored(row) for n, *row in rows}
        return [found.get(n) for n in range(1, len(uris) + 1)]

    async def _list_all(self, listings: Sequence[ListQuery]) -> Sequence[_Answered]:
        rows = await self._database.rows(*listing_query(listings))
        found: dict[int, _Answered] = {n: (page, size) for n, page, size in rows}
        return [found[n] for n in range(1, len(listings) + 1)]

    async def list(self, listing: ListQuery) -> ListResult:
        while True:
            page, size = await self._listings.ask(listing)
            if page is not None:
                return ListResult(page[: listing.limit], more=len(page) > listing.limit)
            # As many of such a size as have room, and at most half: the first may be larger than those after them.
            fewer = min(listing.limit * PAGE_MAX_BYTES // size, listing.limit // 2)
            listing = replace(listing, limit=max(fewer, 1))

    async def scan(self, batch_size: int = 100) -> AsyncIterator[StoredRecord]:
        after = ("", "", "")
        while rows := await self._database.rows(_SCAN, (*after, batch_size)):
            for row in rows:
                yield _stored(row)
            after = rows[-1][:3]

    async def purge_expired_replies(self, now: datetime, limit: int) -> int:
        return await self._database.run(_PURGE_REPLIES, (now, limit))


def _row(record: NewRecord, event: Event, retryable: IdempotentReply | None) -> Row:
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


def listing_query(listings: Sequence[ListQuery]) -> tuple[str, dict[str, Any]]:
    """Return the query, for one more than each limit, and its parameters.

    For any number of listings it is one of two, so that both are prepared once.
    """
    first = listings[0]
    asked = msgspec.json.encode([_asked(listing) for listing in listings]).decode()
    query = _LIST if first.collection is None else _LIST_COLLECTION
    return query, {"hidden": list(first.hidden), "listings": asked}


def _asked(listing: ListQuery) -> _Asked:
    until, after = listing.until or _LATEST, listing.after
    before = (until, _ABOVE_EVERY_RKEY)
    if after is not None and after.indexed_at <= until:
        before = (after.indexed_at, str(after.rkey))
    collection = None if listing.collection is None else str(listing.collection)
    return _Asked(str(listing.did), collection, listing.since or _EARLIEST, *before, listing.limit + 1)


def _anyone() -> Callable[[object], bool]:
    return lambda _: True


def _took_too_long(error: Unavailable) -> bool:
    """Whether one listing may have cost all of its group their answer: of someone with very much that is hidden."""
    return isinstance(error.__cause__, psycopg.errors.QueryCanceled)


def _alike() -> Callable[[ListQuery], bool]:
    """Let those into a group that one query answers, up to so many rows."""
    kind: tuple[bool, frozenset[Nsid]] | None = None
    rows = 0

    def joins(listing: ListQuery) -> bool:
        nonlocal kind, rows
        its_kind = (listing.collection is None, listing.hidden)
        if kind is not None and (its_kind != kind or rows + listing.limit > _ROWS_MAX):
            return False
        kind = its_kind
        rows += listing.limit
        return True

    return joins


def _stored(row: Sequence[Any]) -> StoredRecord:
    did, collection, rkey, *rest = row
    return StoredRecord(RecordUri(Did(did), Nsid(collection), RecordKey(rkey)), *rest)
