"""Creates that arrive while others are being committed go together into the next statement.

docs/adr/011-group-commit.md says why.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from cdv_adapters.tracing import span
from cdv_core.errors import Unavailable

AT_ONCE: Final = 2  # ours: while one group waits for the disk, the next is computed; more only make groups smaller
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


Waiting = tuple[Row, asyncio.Future[bool]]
Write = Callable[[bytes], Awaitable[Sequence[str]]]


class GroupCommit:
    """Commits rows in groups, each row with a result of its own. A row that comes alone does not wait for others.

    `write`: commits the rows of a JSON array, all or none, and returns the event ids of those that it stored. The keys
    of the others had been answered before.
    """

    def __init__(self, write: Write) -> None:
        self._write = write
        self._waiting: deque[Waiting] = deque()
        self._working: set[asyncio.Task[None] | None] = set()

    async def stored(self, row: Row) -> bool:
        """Return whether the row is stored now; False if its key has an answer already.

        A caller who no longer waits changes nothing for the others; its own row may or may not be stored.
        Raises: IdTaken, Unavailable: as RecordStore.create.
        """
        result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((row, result))
        if len(self._working) < AT_ONCE:
            self._working.add(asyncio.create_task(self._work(), name="group commit"))
        return await result

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._commit(self._next_group())
        finally:
            # In the same step as the look at the queue: a row that comes now must find nobody here.
            self._working.discard(asyncio.current_task())

    def _next_group(self) -> list[Waiting]:
        """Take from the front of the queue, at most one row of a key: the second would be for the first to answer."""
        group: list[Waiting] = []
        keys: set[tuple[str, str]] = set()
        size, passed_over = 0, []
        while self._waiting and len(group) < GROUP_MAX and size < GROUP_MAX_BYTES:
            row, result = self._waiting.popleft()
            if result.cancelled():  # its caller has gone
                continue
            if row.key is not None:
                if (row.did, row.key) in keys:
                    passed_over.append((row, result))
                    continue
                keys.add((row.did, row.key))
            group.append((row, result))
            size += len(memoryview(row.value))
        self._waiting.extendleft(reversed(passed_over))
        return group

    async def _commit(self, group: list[Waiting]) -> None:
        if not group:  # all had gone
            return
        traces = (row.traceparent for row, _ in group)
        try:
            # One statement has one place: in the trace of the first, with links to the others'.
            with span("group commit", parent=next(traces), links=traces):
                stored = set(await self._write(msgspec.json.encode([row for row, _ in group])))
        except Unavailable as error:
            _fail(group, error)  # whether it is stored, nobody knows: to try again is for those who have keys
        except Exception as error:  # noqa: BLE001 - whoever's row it was raises it
            # The statement was refused: nothing of it is stored. Whose fault it was is not said, so each goes alone.
            if len(group) > 1:
                for one in group:
                    await self._commit([one])
                return
            _fail(group, error)
        else:
            for row, result in group:
                if not result.done():  # its caller may have gone
                    result.set_result(row.event_id in stored)


def _fail(group: list[Waiting], error: Exception) -> None:
    for _, result in group:
        if not result.done():
            result.set_exception(error)
