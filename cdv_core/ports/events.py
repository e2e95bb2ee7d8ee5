"""Where events go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cdv_core.ports.outbox import OpLogEntry


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream says of itself. `created`: an opaque mark of its incarnation, another one once it is recreated."""

    name: str
    subject_prefix: str
    created: str
    first_sequence: int
    last_sequence: int
    messages: int


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

    async def publish(self, entries: Sequence[OpLogEntry]) -> list[Acknowledged | None]:
        """Send all and wait for their acknowledgements, pipelined; None where none came in time.

        An entry that was not acknowledged may still have been kept: publish it again. Raises: Unavailable: not
        connected; nothing was sent.
        """
        ...

    async def streams(self) -> list[StreamState]:
        """Return the present state of each stream. Raises: Unavailable."""
        ...

    def message_ids(self, stream: StreamState) -> AsyncIterator[tuple[int, str]]:
        """Yield (stream sequence, event id) of everything the stream holds, in order. Raises: Unavailable."""
        ...
