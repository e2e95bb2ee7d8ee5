"""Commits record creates in groups: those that arrive during a commit go together into the next statement.

docs/adr/011-group-commit.md says why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from cdv_adapters.database.batching import Batcher
from cdv_adapters.tracing import span

GROUP_MAX: Final = 100  # ours: some 130 KiB of typical rows, enough to make each row's share of the commit negligible
GROUP_MAX_BYTES: Final = 1024 * 1024  # ours: four records of the largest size


class Row(msgspec.Struct, frozen=True):
    """What one create stores, as an element of the statement's JSON array. `key` is None without an idempotency key.

    `fingerprint` and `reply` are hex. `value` and `envelope` are encoded JSON.
    """

    did: str
    collection: str
    rkey: str
    cid: str
    value: msgspec.Raw
    indexed_at: datetime
    schema_version: str
    created_at: datetime | None
    event_id: str
    subject: str
    envelope: msgspec.Raw
    traceparent: str | None = None
    key: str | None = None
    fingerprint: str | None = None
    reply: str | None = None
    expires_at: datetime | None = None


Write = Callable[[bytes], Awaitable[Sequence[str]]]


class GroupCommit:
    """Commits rows in groups and returns a result for each row.

    `write`: commits the rows of a JSON array, all or none, and returns the event ids of those that it stored. It skips
    rows whose idempotency key already has a reply.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._batcher = Batcher(self._commit, _new_group, max_batch_size=GROUP_MAX)

    async def store(self, row: Row) -> bool:
        """Store the row and return True, or return False if its idempotency key already has a reply.

        If the call is cancelled, the row may or may not be stored. Raises: IdTaken, Unavailable: as
        RecordStore.create.
        """
        return await self._batcher.submit(row)

    async def _commit(self, rows: Sequence[Row]) -> list[bool]:
        # One statement can belong to one trace only: its span links to the traces of the other rows.
        with span("group commit", links=(row.traceparent for row in rows)):
            stored = set(await self._write(msgspec.json.encode(rows)))
        return [row.event_id in stored for row in rows]


def _new_group() -> Callable[[Row], bool]:
    """Return a predicate that admits rows to one commit.

    It rejects rows beyond the statement's size limit, and a second row with the same idempotency key: that one gets the
    reply of the first.
    """
    keys: set[tuple[str, str]] = set()
    size = 0

    def may_join(row: Row) -> bool:
        nonlocal size
        if size >= GROUP_MAX_BYTES or (row.key is not None and (row.did, row.key) in keys):
            return False
        if row.key is not None:
            keys.add((row.did, row.key))
        size += len(memoryview(row.value))
        return True

    return may_join
