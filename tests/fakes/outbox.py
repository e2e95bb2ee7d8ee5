"""An in-memory outbox. The fake stores append to its op log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec.structs import replace

from cdv_core.domain.events import Event
from cdv_core.errors import CdvError, IdTaken
from cdv_core.ports.outbox import Backlog, OpLogEntry, Outbox, Publication, StreamMark


class FakeOutbox(Outbox):
    """`entries`: the op log, by sequence. `error`, if set, is raised by every method, like a database that is down."""

    def __init__(self) -> None:
        self.entries: dict[int, OpLogEntry] = {}
        self.error: CdvError | None = None
        self._lease: tuple[str, datetime] | None = None
        self._marks: dict[str, StreamMark] = {}

    def append(self, event: Event) -> None:
        if any(entry.event.event_id == event.event_id for entry in self.entries.values()):
            raise IdTaken
        sequence = len(self.entries) + 1
        self.entries[sequence] = OpLogEntry(sequence, event)

    async def lease(self, owner: str, limit: int, *, now: datetime, expires_at: datetime) -> list[OpLogEntry] | None:
        self._check()
        if self._lease is not None and self._lease[0] != owner and now < self._lease[1] <= 2 * (expires_at - now) + now:
            return None
        self._lease = (owner, expires_at)
        return self._unpublished()[:limit]

    async def mark_published(
        self, owner: str, publications: Sequence[Publication], marks: Sequence[StreamMark] = ()
    ) -> bool:
        self._check()
        if not self._is_held_by(owner):
            return False
        for sequence, stream_sequence, published_at in publications:
            entry = self.entries.get(sequence)
            if entry is not None and entry.stream_sequence is None:
                self.entries[sequence] = replace(entry, stream_sequence=stream_sequence, published_at=published_at)
        self._marks.update((mark.name, mark) for mark in marks)
        return True

    async def release(self, owner: str) -> None:
        self._check()
        if self._is_held_by(owner):
            self._lease = None

    async def backlog(self) -> Backlog:
        self._check()
        moments = [entry.event.occurred_at for entry in self._unpublished()]
        return Backlog(len(moments), min(moments, default=None))

    async def read(self, after: int, limit: int, subject_prefix: str = "") -> list[OpLogEntry]:
        self._check()
        entries = [entry for entry in self.entries.values() if entry.sequence > after]
        return [entry for entry in entries if entry.event.subject.startswith(subject_prefix)][:limit]

    async def stream_marks(self) -> list[StreamMark]:
        self._check()
        return [self._marks[name] for name in sorted(self._marks)]

    async def requeue(self, owner: str, sequences: Sequence[int]) -> bool:
        self._check()
        if not self._is_held_by(owner):
            return False
        for sequence in sequences:
            if sequence in self.entries:
                entry = self.entries[sequence]
                self.entries[sequence] = replace(entry, stream_sequence=None, published_at=None)
        return True

    def _check(self) -> None:
        if self.error is not None:
            raise self.error

    def _is_held_by(self, owner: str) -> bool:
        return self._lease is not None and self._lease[0] == owner

    def _unpublished(self) -> list[OpLogEntry]:
        return [entry for entry in self.entries.values() if entry.stream_sequence is None]
