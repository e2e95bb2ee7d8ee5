"""Creates that arrive while others are being committed go together into the next statement.

docs/adr/011-group-commit.md says why.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from cdv_adapters.database.batching import Batcher
from cdv_adapters.tracing import span

GROUP_MAX: Final = 100  # ours: some 130 KiB of ordinary rows, far more than a commit's share of each
GROUP_MAX_BYTES: Final = 1024 * 1024  # ours: four of the largest records


class Row(msgspec.Struct, frozen=True):
    """What one create stores, as a member of the statement's JSON. Without `key` it is not retryable.

    `fingerprint` and `reply` are hex. `value` and `envelope` are the finished JSON.
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
    """Commits rows in groups, each row with a result of its own.

    `write`: commits the rows of a JSON array, all or none, and returns the event ids of those that it stored. The keys
    of the others had been answered before.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._batcher = Batcher(self._commit, _membership, most=GROUP_MAX)

    async def stored(self, row: Row) -> bool:
        """Return whether the row is stored now; False if its key has an answer already.

        Of a caller who no longer waits the row may or may not be stored. Raises: IdTaken, Unavailable: as
        RecordStore.create.
        """
        return await self._batcher.ask(row)

    async def _commit(self, rows: Sequence[Row]) -> list[bool]:
        # One statement has one place: in the trace of one of them, with links to the others'.
        with span("group commit", links=(row.traceparent for row in rows)):
            stored = set(await self._write(msgspec.json.encode(rows)))
        return [row.event_id in stored for row in rows]


def _membership() -> Callable[[Row], bool]:
    """Say of one row after the other whether it may share a commit: not beyond what a statement should carry, and not
    with another of its key, which is for the first to answer.
    """
    keys: set[tuple[str, str]] = set()
    size = 0

    def joins(row: Row) -> bool:
        nonlocal size
        if size >= GROUP_MAX_BYTES or (row.key is not None and (row.did, row.key) in keys):
            return False
        if row.key is not None:
            keys.add((row.did, row.key))
        size += len(memoryview(row.value))
        return True

    return joins
