"""The outbox: the op log as the relay sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, Protocol

import msgspec

from cdv_core.domain.events import Event


class OpLogEntry(msgspec.Struct, frozen=True):
    """A committed event. `sequence`: its position in the op log; ascending in commit order within one DID.

    `stream_sequence`: the sequence at which the stream acknowledged it; None while it is unpublished (never published,
    or requeued). `published_at`: when the stream received it, which may be long after it occurred; None while it is
    unpublished, and for entries published by a version that did not record this.
    """

    sequence: int
    event: Event
    stream_sequence: int | None = None
    published_at: datetime | None = None


class Publication(NamedTuple):
    """A stream's acknowledgement of the op-log entry `sequence`. `published_at`: when the stream received it."""

    sequence: int
    stream_sequence: int
    published_at: datetime


# Ours: each scrape of the metrics counts them, and without a broker there is no end of them.
BACKLOG_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class Backlog:
    """The unpublished entries, the first BACKLOG_MAX of them.

    `oldest_at`: when the oldest of their events occurred, None if there are none.
    """

    count: int
    oldest_at: datetime | None


@dataclass(frozen=True, slots=True)
class StreamMark:
    """A stream's state when its latest acknowledgements were recorded. A later state below it means lost messages.

    `created`: the incarnation (StreamState.created). `last_sequence`: its end. `gaps`: how many messages were missing
    between its first and its last.
    """

    name: str
    created: str
    last_sequence: int
    gaps: int = 0


class Outbox(Protocol):
    """Hands out unpublished entries to one relay at a time, which keeps the order per DID with any number of relays.

    At least once: an entry is handed out until it is marked as published, even if relays crash in between. Publishing
    an entry never removes it. All methods raise Unavailable when the store cannot be reached.
    """

    async def lease(self, owner: str, limit: int, *, now: datetime, expires_at: datetime) -> list[OpLogEntry] | None:
        """Return up to `limit` unpublished entries in op-log order; None while another owner holds a live lease.

        Acquires or extends the single lease until `expires_at`, also when nothing is unpublished ([]) and when `limit`
        is 0. No database lock is held after this returns. A lease whose expiry is later than `expires_at` by more than
        its own duration is not live: it was taken by a clock that ran ahead, and its owner may be gone. An entry that
        commits late, with a lower sequence than entries already published, is returned by a later call.
        """
        ...

    async def mark_published(
        self, owner: str, publications: Sequence[Publication], marks: Sequence[StreamMark] = ()
    ) -> bool:
        """Record what the streams have acknowledged, and the state of the streams after that, in one transaction.

        A mark replaces the earlier mark of the same stream; an entry already published stays unchanged.
        Returns False, having changed nothing, when `owner` no longer holds the lease (another owner took it, or it was
        released; a lease that has merely expired is still held): what a relay learnt before it lost the lease may be
        out of date.
        """
        ...

    async def release(self, owner: str) -> None:
        """Release the lease if `owner` holds it, so that another relay need not wait for it to expire."""
        ...

    async def backlog(self) -> Backlog:
        """Return how many entries are unpublished, BACKLOG_MAX at most, and since when."""
        ...

    async def read(self, after: int, limit: int, subject_prefix: str = "") -> list[OpLogEntry]:
        """Return up to `limit` entries with a higher sequence than `after`, in op-log order, published or not."""
        ...

    async def stream_marks(self) -> list[StreamMark]:
        """Return the latest mark of each stream by name, none for a stream that was never marked."""
        ...

    async def requeue(self, owner: str, sequences: Sequence[int]) -> bool:
        """Make these entries unpublished again, because the stream has lost them.

        Their `stream_sequence` and `published_at` become None.
        Returns False, having changed nothing, when `owner` no longer holds the lease.
        """
        ...
