"""The op log, seen by those who tell the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cdv_core.domain.events import Event


@dataclass(frozen=True, slots=True)
class OpLogEntry:
    """A committed event. `sequence`: its place in the op log; ascending with commit order within one DID.

    `stream_sequence`: where the stream acknowledged it, None while it was never acknowledged.
    """

    sequence: int
    event: Event
    stream_sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits to be published. `oldest_at`: when its oldest event occurred, None if nothing waits."""

    count: int
    oldest_at: datetime | None


class Outbox(Protocol):
    """Hands out unpublished entries to one relay at a time, so that the order per DID survives any number of them.

    At least once: an entry is handed out until it is marked, whoever dies in between. Entries are never removed by
    publishing them. All methods raise Unavailable when the store cannot be reached.
    """

    async def lease(self, owner: str, limit: int, *, now: datetime, expires_at: datetime) -> list[OpLogEntry]:
        """Return up to `limit` unpublished entries in op-log order, or none while another owner's lease is live.

        Takes or extends the one lease to `expires_at`. Nothing is locked when this returns. An entry that commits
        late, with a lower sequence than others already published, is returned by a later call.
        """
        ...

    async def mark_published(self, acknowledged: Sequence[tuple[int, int]]) -> None:
        """Note (sequence, stream sequence) pairs that the stream has acknowledged. Marking twice changes nothing."""
        ...

    async def release(self, owner: str) -> None:
        """Give up the lease if `owner` holds it, so that another relay need not wait for it to expire."""
        ...

    async def backlog(self) -> Backlog:
        """Return how much waits to be published and since when."""
        ...

    async def read(self, after: int, limit: int, subject_prefix: str = "") -> list[OpLogEntry]:
        """Return up to `limit` entries with a higher sequence than `after`, in op-log order, published or not."""
        ...

    async def last_stream_sequence(self, subject_prefix: str) -> int:
        """Return the highest stream sequence ever marked on entries of this subject prefix, 0 if none."""
        ...

    async def requeue(self, sequences: Sequence[int]) -> None:
        """Make these entries unpublished again, because the stream has lost them."""
        ...
