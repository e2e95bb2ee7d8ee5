"""Where events go."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from cdv_core.ports.outbox import OpLogEntry

STREAMS: Final[Mapping[str, str]] = {"RA_RECORDS": "cdv.records.", "RA_MEDIA": "cdv.media."}  # spec: events
DUPLICATE_WINDOW: Final = timedelta(minutes=2)  # spec: events


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream says of itself. `created`: an opaque mark of its incarnation, another one once it is recreated.

    `complete_since`: what was stored before then may rightly be gone, by the stream's limits; None if nothing may.
    """

    name: str
    subject_prefix: str
    created: str
    first_sequence: int
    last_sequence: int
    messages: int
    complete_since: datetime | None = None

    @property
    def gaps(self) -> int:
        """How many messages between the first and the last are gone."""
        return self.last_sequence - self.first_sequence + 1 - self.messages


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The stream keeps the entry. `duplicate`: it already did, within its duplicate window, and kept one."""

    stream_sequence: int
    duplicate: bool = False


class EventBus(Protocol):
    """A durable, deduplicating stream of events.

    Deduplicates on the event's id within two minutes. Order: entries of one DID reach the stream in the order given,
    or not at all; after one that was not acknowledged, no later entry of that DID is acknowledged in the same call.
    """

    async def publish(self, entries: Sequence[OpLogEntry], onto: Sequence[StreamState]) -> list[Acknowledged | None]:
        """Send all and wait for their acknowledgements, pipelined, for a bounded time; None where none came.

        `onto`: the streams as the caller has judged them. Nothing is added to a stream that does not end there any
        more, because it was recreated, restored, or written to by another relay: look again, then publish again.
        An entry that was not acknowledged may still have been kept. Raises: Unavailable: not connected; nothing was
        sent.
        """
        ...

    async def streams(self) -> list[StreamState]:
        """Return the present state of each stream. Raises: Unavailable."""
        ...

    def message_ids(self, stream: StreamState, after: int = 0) -> AsyncGenerator[tuple[int, str, datetime]]:
        """Yield (stream sequence, event id, when it was stored) of what `stream` holds, in order.

        From sequence `after` + 1 to the last that `stream` says. The time is aware, in UTC, and by the clock that
        `complete_since` goes by. Close it when leaving early. Raises: Unavailable.
        """
        ...
