"""The op log, seen by those who tell the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import msgspec

from cdv_core.domain.events import Event


class OpLogEntry(msgspec.Struct, frozen=True):
    """A committed event. `sequence`: its place in the op log; ascending with commit order within one DID.

    `stream_sequence`: where the stream acknowledged it, None while it is not published (never was, or requeued).
    `published_at`: when the stream got it, which may be long after it occurred; None while it is not published, and if
    code published it that did not note this.
    """

    sequence: int
    event: Event
    stream_sequence: int | None = None
    published_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits to be published. `oldest_at`: when its oldest event occurred, None if nothing waits."""

    count: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True)
class StreamMark:
    """Where a stream stood when its latest acknowledgements were noted: what it may not fall behind without a loss.

    `created`: its incarnation (StreamState.created). `last_sequence`: its end. `gaps`: how many messages between its
    first and its last were gone.
    """

    name: str
    created: str
    last_sequence: int
    gaps: int = 0


class Outbox(Protocol):
    """Hands out unpublished entries to one relay at a time, so that the order per DID survives any number of them.

    At least once: an entry is handed out until it is marked, whoever dies in between. Entries are never removed by
    publishing them. All methods raise Unavailable when the store cannot be reached.
    """

    async def lease(self, owner: str, limit: int, *, now: datetime, expires_at: datetime) -> list[OpLogEntry] | None:
        """Return up to `limit` unpublished entries in op-log order; None while another owner's lease is live.

        Takes or extends the one lease to `expires_at`, also when nothing waits ([]) and when `limit` is 0. Nothing is
        locked when this returns. A lease that would end later than `expires_at` by more than its life is not live: a
        clock ran ahead, and the owner may be gone. An entry that commits late, with a lower sequence than others
        already published, is returned by a later call.
        """
        ...

    async def mark_published(
        self, owner: str, acknowledged: Sequence[tuple[int, int, datetime]], marks: Sequence[StreamMark] = ()
    ) -> bool:
        """Note what streams have acknowledged, and where they stand then.

        `acknowledged`: (sequence, stream sequence, when the stream got it). One transaction. A mark replaces that of
        the same name; an entry already published stays as it is.
        Returns False, having changed nothing, when `owner` no longer holds the lease (another took it, or it was
        released; merely expired is still held): what a relay learnt before it was overtaken may be out of date.
        """
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

    async def stream_marks(self) -> list[StreamMark]:
        """Return the latest mark of each stream by name, none for a stream that was never marked."""
        ...

    async def requeue(self, owner: str, sequences: Sequence[int]) -> bool:
        """Make these entries unpublished again, because the stream has lost them.

        Their `stream_sequence` and `published_at` are None then.
        Returns False, having changed nothing, when `owner` no longer holds the lease.
        """
        ...
