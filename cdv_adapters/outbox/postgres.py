"""The outbox on the op log in Postgres. No operation needs a transaction of several statements."""

# ruff: noqa: S608 - queries are built from constants, here and in cdv_adapters/database/postgres.py
from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from psycopg import sql

from cdv_adapters.database.postgres import PostgresDatabase
from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import Did
from cdv_core.ports.outbox import BACKLOG_MAX, Backlog, OpLogEntry, Outbox, Publication, StreamMark

_COLUMNS: Final = "sequence, event_id, did, subject, envelope, occurred_at, traceparent, stream_sequence, published_at"

_LEASE: Final = """
INSERT INTO relay_lease (id, owner, expires_at) VALUES (1, %(owner)s, %(expires_at)s)
ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, expires_at = excluded.expires_at
WHERE relay_lease.owner = excluded.owner
    OR relay_lease.expires_at <= %(now)s OR relay_lease.expires_at > %(latest)s"""
_WAITING: Final = f"SELECT {_COLUMNS} FROM op_log WHERE stream_sequence IS NULL ORDER BY sequence LIMIT %s"
# Locks the lease until the commit, so that no other relay takes it over during the statement.
_HELD: Final = "WITH held AS (SELECT id FROM relay_lease WHERE owner = %(owner)s FOR UPDATE)"
_MARK: Final = f"""
{_HELD},
published AS (
    UPDATE op_log SET stream_sequence = acknowledged.stream_sequence, published_at = acknowledged.published_at
    FROM json_to_recordset(%(acknowledged)s::json)
        AS acknowledged (sequence bigint, stream_sequence bigint, published_at timestamptz)
    WHERE op_log.sequence = acknowledged.sequence AND op_log.stream_sequence IS NULL AND EXISTS (SELECT FROM held)
),
marked AS (
    INSERT INTO stream_marks (name, created, last_sequence, gaps)
    SELECT * FROM json_to_recordset(%(marks)s::json) AS (name text, created text, last_sequence bigint, gaps bigint)
    WHERE EXISTS (SELECT FROM held)
    ON CONFLICT (name) DO UPDATE
    SET created = excluded.created, last_sequence = excluded.last_sequence, gaps = excluded.gaps
)
SELECT id FROM held"""
_REQUEUE: Final = f"""
{_HELD},
requeued AS (
    UPDATE op_log SET stream_sequence = NULL, published_at = NULL
    WHERE sequence = ANY (%(sequences)s::bigint[]) AND stream_sequence IS NOT NULL AND EXISTS (SELECT FROM held)
)
SELECT id FROM held"""
_RELEASE: Final = "DELETE FROM relay_lease WHERE owner = %s"
_BACKLOG: Final = f"""
SELECT count(*), min(occurred_at) FROM (
    SELECT occurred_at FROM op_log WHERE stream_sequence IS NULL ORDER BY sequence LIMIT {BACKLOG_MAX}
) AS waiting"""
_STREAM_MARKS: Final = "SELECT name, created, last_sequence, gaps FROM stream_marks ORDER BY name"


class _Acknowledged(msgspec.Struct, frozen=True):
    """An element of the statement's JSON array: one parameter for hundreds of entries is the cheapest to encode."""

    sequence: int
    stream_sequence: int
    published_at: datetime


class PostgresOutbox(Outbox):
    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def lease(self, owner: str, limit: int, *, now: datetime, expires_at: datetime) -> list[OpLogEntry] | None:
        latest = expires_at + (expires_at - now)
        lease = {"owner": owner, "now": now, "expires_at": expires_at, "latest": latest}
        if not await self._database.run(_LEASE, lease):
            return None
        # A second statement: the first may have waited for another relay's lease, and its snapshot would not include
        # what that relay has marked in the meantime.
        return [_entry(row) for row in await self._database.rows(_WAITING, (limit,))]

    async def mark_published(
        self, owner: str, publications: Sequence[Publication], marks: Sequence[StreamMark] = ()
    ) -> bool:
        parameters = {
            "owner": owner,
            "acknowledged": msgspec.json.encode([_Acknowledged(*publication) for publication in publications]).decode(),
            "marks": msgspec.json.encode(marks).decode(),
        }
        return bool(await self._database.rows(_MARK, parameters))

    async def release(self, owner: str) -> None:
        await self._database.run(_RELEASE, (owner,))

    async def backlog(self) -> Backlog:
        ((count, oldest_at),) = await self._database.rows(_BACKLOG)
        return Backlog(count, oldest_at)

    async def read(self, after: int, limit: int, subject_prefix: str = "") -> list[OpLogEntry]:
        return [_entry(row) for row in await self._database.rows(read_query(subject_prefix), (after, limit))]

    async def stream_marks(self) -> list[StreamMark]:
        return [StreamMark(*row) for row in await self._database.rows(_STREAM_MARKS)]

    async def requeue(self, owner: str, sequences: Sequence[int]) -> bool:
        return bool(await self._database.rows(_REQUEUE, {"owner": owner, "sequences": list(sequences)}))


def read_query(subject_prefix: str) -> str:
    """Return the statement. Its parameters: (after, limit).

    The prefix is a literal in the statement: with a parameter, Postgres could not use the partial index of media events
    and would scan the events of all records between them.
    """
    chosen = f" AND starts_with(subject, {sql.Literal(subject_prefix).as_string()})" if subject_prefix else ""
    return f"SELECT {_COLUMNS} FROM op_log WHERE sequence > %s{chosen} ORDER BY sequence LIMIT %s"


def _entry(row: tuple[Any, ...]) -> OpLogEntry:
    sequence, event_id, did, subject, envelope, occurred_at, traceparent, stream_sequence, published_at = row
    event = Event(event_id, Did(did), subject, envelope, occurred_at, traceparent)
    return OpLogEntry(sequence, event, stream_sequence, published_at)
