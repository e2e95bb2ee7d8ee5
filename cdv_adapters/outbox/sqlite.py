"""The outbox on the op log in the vault's SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cdv_adapters.database.sqlite import SqliteDatabase, from_micros, to_micros
from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import Did
from cdv_core.ports.outbox import BACKLOG_MAX, Backlog, OpLogEntry, Outbox, Publication, StreamMark

_SELECT = (
    "SELECT sequence, event_id, did, subject, envelope, occurred_at, traceparent, stream_sequence, published_at"
    " FROM op_log"
)


class SqliteOutbox(Outbox):
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def lease(self, owner: str, limit: int, *, now: datetime, expires_at: datetime) -> list[OpLogEntry] | None:
        def work(connection: sqlite3.Connection) -> list[OpLogEntry] | None:
            taken = connection.execute(
                "INSERT INTO relay_lease (id, owner, expires_at) VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE"
                " SET owner = excluded.owner, expires_at = excluded.expires_at"
                " WHERE relay_lease.owner = excluded.owner"
                " OR relay_lease.expires_at <= ? OR relay_lease.expires_at > ?",
                (owner, to_micros(expires_at), to_micros(now), to_micros(expires_at + (expires_at - now))),
            ).rowcount
            if not taken:
                return None
            unpublished = f"{_SELECT} WHERE stream_sequence IS NULL ORDER BY sequence LIMIT ?"
            return [_entry(row) for row in connection.execute(unpublished, (limit,))]

        return await self._database.write(work)

    async def mark_published(
        self, owner: str, publications: Sequence[Publication], marks: Sequence[StreamMark] = ()
    ) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            if not _holds_lease(connection, owner):
                return False
            connection.executemany(
                "UPDATE op_log SET stream_sequence = ?, published_at = ?"
                " WHERE sequence = ? AND stream_sequence IS NULL",
                [(it.stream_sequence, to_micros(it.published_at), it.sequence) for it in publications],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO stream_marks (name, created, last_sequence, gaps) VALUES (?, ?, ?, ?)",
                [(mark.name, mark.created, mark.last_sequence, mark.gaps) for mark in marks],
            )
            return True

        return await self._database.write(work)

    async def release(self, owner: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM relay_lease WHERE owner = ?", (owner,))

        await self._database.write(work)

    async def backlog(self) -> Backlog:
        def query(connection: sqlite3.Connection) -> Backlog:
            count, oldest = connection.execute(
                "SELECT count(*), min(occurred_at) FROM ("
                "SELECT occurred_at FROM op_log WHERE stream_sequence IS NULL ORDER BY sequence LIMIT ?)",
                (BACKLOG_MAX,),
            ).fetchone()
            return Backlog(count, None if oldest is None else from_micros(oldest))

        return await self._database.read(query)

    async def read(self, after: int, limit: int, subject_prefix: str = "") -> list[OpLogEntry]:
        def query(connection: sqlite3.Connection) -> list[OpLogEntry]:
            rows = connection.execute(
                f"{_SELECT} WHERE sequence > ? AND substr(subject, 1, ?) = ? ORDER BY sequence LIMIT ?",
                (after, len(subject_prefix), subject_prefix, limit),
            )
            return [_entry(row) for row in rows]

        return await self._database.read(query)

    async def stream_marks(self) -> list[StreamMark]:
        def query(connection: sqlite3.Connection) -> list[StreamMark]:
            rows = connection.execute("SELECT name, created, last_sequence, gaps FROM stream_marks ORDER BY name")
            return [StreamMark(*row) for row in rows]

        return await self._database.read(query)

    async def requeue(self, owner: str, sequences: Sequence[int]) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            if not _holds_lease(connection, owner):
                return False
            connection.executemany(
                "UPDATE op_log SET stream_sequence = NULL, published_at = NULL WHERE sequence = ?",
                [(sequence,) for sequence in sequences],
            )
            return True

        return await self._database.write(work)


def _holds_lease(connection: sqlite3.Connection, owner: str) -> bool:
    """Return whether `owner` still has the lease. An expired lease counts until another relay takes it over."""
    return connection.execute("SELECT 1 FROM relay_lease WHERE owner = ?", (owner,)).fetchone() is not None


def _entry(row: tuple[Any, ...]) -> OpLogEntry:
    sequence, event_id, did, subject, envelope, occurred_at, traceparent, stream_sequence, published_at = row
    event = Event(event_id, Did(did), subject, envelope, from_micros(occurred_at), traceparent)
    return OpLogEntry(sequence, event, stream_sequence, None if published_at is None else from_micros(published_at))
