"""The event bus: where the relay publishes events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

from cdv_core.domain.events import Event
from cdv_core.ports.outbox import OpLogEntry

STREAMS: Final[Mapping[str, str]] = {"RA_RECORDS": "cdv.records.", "RA_MEDIA": "cdv.media."}  # spec: events
DUPLICATE_WINDOW: Final = timedelta(minutes=2)  # spec: events


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream's state as the broker reports it. `created`: an opaque id of its incarnation; changes on recreation.

    `complete_since`: messages stored before then may have been removed by the stream's limits; None if the limits
    never remove any.
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
        """How many messages between the first and the last are missing."""
        return self.last_sequence - self.first_sequence + 1 - self.messages

    def carries(self, event: Event) -> bool:
        """Return whether `event` belongs in this stream, by its subject."""
        return event.subject.startswith(self.subject_prefix)


class StreamMessage(NamedTuple):
    """A message in a stream. `stored_at`: when the stream stored it; aware, UTC, by the clock of `complete_since`."""

    sequence: int
    event_id: str
    stored_at: datetime


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The stream holds the entry. `duplicate`: it already did, within its duplicate window, and stored no second."""

    stream_sequence: int
    duplicate: bool = False


class EventBus(Protocol):
    """Durable, deduplicating event streams.

    Events are deduplicated by id within two minutes. Order: entries of one DID reach the stream in the order given, or
    not at all; after an unacknowledged entry, no later entry of that DID is acknowledged in the same call.
    """

    async def publish(self, entries: Sequence[OpLogEntry], onto: Sequence[StreamState]) -> list[Acknowledged | None]:
        """Publish all entries, pipelined, and wait a bounded time for acknowledgements; None where none arrived.

        `onto`: the streams' states as the caller checked them. Nothing is appended to a stream that no longer ends
        there, because it was recreated, restored, or written to by another relay: read the states again, then retry.
        An unacknowledged entry may have been stored all the same. Raises: Unavailable: not connected; nothing was sent.
        """
        ...

    async def streams(self) -> list[StreamState]:
        """Return the current state of each stream. Raises: Unavailable."""
        ...

    def message_ids(self, stream: StreamState, after: int = 0) -> AsyncGenerator[StreamMessage]:
        """Yield the messages in `stream`, in order, from sequence `after` + 1 to `stream.last_sequence`.

        Close the generator when leaving early. Raises: Unavailable.
        """
        ...
