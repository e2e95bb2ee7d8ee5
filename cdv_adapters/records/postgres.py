"""Records in Postgres. Each write is a single statement, and therefore atomic."""

# ruff: noqa: S608 - queries are built from constants

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

# One statement for any number of creates, so that they share a round trip, a plan and a commit, and are stored all or
# none. `n` is the order of arrival. Every statement locks accounts in the same order, so groups cannot deadlock. An
# expired reply is overwritten. Of concurrent calls with the same key, all but the first find its reply in `kept`, even
# if this statement began before the first was committed: ON CONFLICT sees committed rows that are newer than the
# statement's snapshot.
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
# SKIP LOCKED leaves rows to the replica that is already deleting them. ARRAY: with a plain IN, Postgres might run the
# subquery, and lock rows, repeatedly.
_PURGE_REPLIES: Final = """
DELETE FROM replies WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM replies WHERE expires_at <= least(%s, now()) ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
))"""

_COLUMNS: Final = "did, collection, rkey, cid, value, indexed_at, schema_version, created_at"
_SCAN: Final = f"""
SELECT {_COLUMNS} FROM records WHERE (did, collection, rkey) > (%s, %s, %s) ORDER BY did, collection, rkey LIMIT %s"""
# The same JSON as record_json returns. Identifiers, versions and times contain no character that JSON escapes.
_TIME: Final = """to_char({}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_AS_JSON: Final = f"""convert_to(
    '{{"uri":"at://' || did || '/' || collection || '/' || rkey || '","cid":"' || cid || '","value":' || value
    || ',"indexedAt":"' || {_TIME.format("indexed_at")} || '","schemaVersion":"' || schema_version || '"'
    || coalesce(',"createdAt":"' || {_TIME.format("created_at")} || '"', '') || '}}',
    'UTF8'
)"""


def find_query(did: str, collection: str, rkey: str) -> str:
    """Return the query for one record. The arguments are SQL expressions."""
    return f"SELECT {_COLUMNS} FROM records WHERE did = {did} AND collection = {collection} AND rkey = {rkey}"


def page_query(
    *, did: str, collection: str | None, hidden: str, since: str, before_time: str, before_rkey: str, page: str
) -> str:
    """Return the query for one page of records, strictly older than (`before_time`, `before_rkey`).

    The arguments are SQL expressions; `collection` is None for all collections.
    """
    in_collection = "" if collection is None else f"AND collection = {collection}"
    # Exactly one upper bound, so that the index scan has exactly one position to start from.
    return f"""
    SELECT {_AS_JSON} FROM records WHERE did = {did} {in_collection} AND collection <> ALL ({hidden}::text[])
    AND indexed_at >= {since} AND (indexed_at, rkey) < ({before_time}, {before_rkey})
    ORDER BY indexed_at DESC, rkey DESC LIMIT {page}"""


# One statement for any number of requests; `n` is the number of the request that a row belongs to. Each request is a
# subquery of its own that Postgres can only answer from the index: LIMIT and ARRAY keep the planner from flattening it
# into a join.
FIND_ALL: Final = f"""
SELECT n, it.* FROM ROWS FROM (json_to_recordset(%s::json) AS (
    did text COLLATE "C", collection text COLLATE "C", rkey text COLLATE "C"
)) WITH ORDINALITY AS asked (did, collection, rkey, n),
LATERAL ({find_query("asked.did", "asked.collection", "asked.rkey")} LIMIT 1) AS it"""


def _list_all(collection: str | None) -> str:
    asked = {name: f"asked.{name}" for name in ("did", "since", "before_time", "before_rkey", "page")}
    # A page that is too large is not returned, only its size. A page of one record (and the one after it, which tells
    # whether there are more) is always returned.
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
_LISTINGS_MAX: Final = 16  # ours: the first listing of a statement waits for its last
_ROWS_MAX: Final = 400  # ours: four pages of the largest limit


# The encoded records, one more than the limit if there are more, or None if together they are too large; and their size
# in bytes.
_PageResult: TypeAlias = tuple[list[bytes] | None, int]


class _RecordRef(msgspec.Struct, frozen=True):
    did: str
    collection: str
    rkey: str


class _ListingRow(msgspec.Struct, frozen=True):
    """A listing as an element of the statement's JSON array: up to `page` records strictly older than `before_*`."""

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
        self._finds = Batcher(self._find_all, _any_request, max_batch_size=_FINDS_MAX)
        self._listings = Batcher(
            self._list_all, _same_query, max_batch_size=_LISTINGS_MAX, retry_individually_after=_timed_out
        )

    async def create(self, record: NewRecord, event: Event, retryable: IdempotentReply | None = None) -> bytes | None:
        if await self._group.store(_row(record, event, retryable)):
            return None
        assert retryable is not None, "only a request with an idempotency key can have a reply already"  # noqa: S101
        earlier = await self.find_reply(record.uri.did, retryable.key, retryable.fingerprint, record.indexed_at)
        # None: another replica, by whose clock the reply has expired, has purged it in between. Nothing was stored, and
        # the key is unused again.
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
        return await self._finds.submit(uri)

    async def _find_all(self, uris: Sequence[RecordUri]) -> list[StoredRecord | None]:
        wanted = [_RecordRef(str(it.did), str(it.collection), str(it.rkey)) for it in uris]
        rows = await self._database.rows(FIND_ALL, (msgspec.json.encode(wanted).decode(),))
        found = {n: _stored(row) for n, *row in rows}
        return [found.get(n) for n in range(1, len(uris) + 1)]

    async def _list_all(self, listings: Sequence[ListQuery]) -> Sequence[_PageResult]:
        rows = await self._database.rows(*listing_query(listings))
        found: dict[int, _PageResult] = {n: (page, size) for n, page, size in rows}
        return [found[n] for n in range(1, len(listings) + 1)]

    async def list(self, listing: ListQuery) -> ListResult:
        while True:
            page, size = await self._listings.submit(listing)
            if page is not None:
                return ListResult(page[: listing.limit], more=len(page) > listing.limit)
            # As many records of the average size as fit, but at most half the limit: the first records may be larger
            # than the average.
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
    """Return the query and its parameters. It asks for one record more than each listing's limit.

    There are only two query texts, whatever the number of listings, so that both are prepared statements.
    """
    first = listings[0]
    listing_rows = msgspec.json.encode([_listing_row(listing) for listing in listings]).decode()
    query = _LIST if first.collection is None else _LIST_COLLECTION
    return query, {"hidden": list(first.hidden), "listings": listing_rows}


def _listing_row(listing: ListQuery) -> _ListingRow:
    until, after = listing.until or _LATEST, listing.after
    before = (until, _ABOVE_EVERY_RKEY)
    if after is not None and after.indexed_at <= until:
        before = (after.indexed_at, str(after.rkey))
    collection = None if listing.collection is None else str(listing.collection)
    return _ListingRow(str(listing.did), collection, listing.since or _EARLIEST, *before, listing.limit + 1)


def _any_request() -> Callable[[object], bool]:
    return lambda _: True


def _timed_out(error: Unavailable) -> bool:
    """Return whether the statement timed out.

    One slow listing, of a DID with very many records in hidden collections, then fails its whole group.
    """
    return isinstance(error.__cause__, psycopg.errors.QueryCanceled)


def _same_query() -> Callable[[ListQuery], bool]:
    """Return a predicate that admits listings to one group: those of the same query text, up to _ROWS_MAX rows."""
    kind: tuple[bool, frozenset[Nsid]] | None = None
    rows = 0

    def may_join(listing: ListQuery) -> bool:
        nonlocal kind, rows
        its_kind = (listing.collection is None, listing.hidden)
        if kind is not None and (its_kind != kind or rows + listing.limit > _ROWS_MAX):
            return False
        kind = its_kind
        rows += listing.limit
        return True

    return may_join


def _stored(row: Sequence[Any]) -> StoredRecord:
    did, collection, rkey, *rest = row
    return StoredRecord(RecordUri(Did(did), Nsid(collection), RecordKey(rkey)), *rest)
