"""In-memory streams for embedding programs and tests. They are lost when the process ends."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Final

import anyio

from cdv_core.domain.events import Event
from cdv_core.ports.clock import Clock
from cdv_core.ports.events import DUPLICATE_WINDOW, STREAMS, Acknowledged, EventBus, StreamMessage, StreamState
from cdv_core.ports.outbox import OpLogEntry

MESSAGES_MAX: Final = 100_000  # ours: some 70 MiB of events per stream
_incarnations = count(1)


@dataclass(frozen=True, slots=True)
class Message:
    """An event in its stream. `sequence`: its sequence number, from 1, without gaps. `stored_at`: when it was added."""

    sequence: int
    event: Event
    stored_at: datetime


@dataclass(slots=True)
class Stream:
    """One stream. `complete_since`: it holds all events published since then; None: all events ever published."""

    name: str
    subject_prefix: str
    complete_since: datetime | None
    messages: deque[Message] = field(default_factory=deque)
    last_sequence: int = 0
    created: str = field(default_factory=lambda: f"memory-{next(_incarnations)}")
    # Event id → (stream sequence, when it was added), oldest first.
    recent: dict[str, tuple[int, datetime]] = field(default_factory=dict)

    def state(self) -> StreamState:
        first = self.messages[0].sequence if self.messages else self.last_sequence + 1
        return StreamState(
            self.name,
            self.subject_prefix,
            self.created,
            first,
            self.last_sequence,
            len(self.messages),
            self.complete_since,
        )


class MemoryEventBus(EventBus):
    """Keeps the latest `max_messages` messages of each stream. Must be used from one event loop only."""

    def __init__(self, clock: Clock, *, max_messages: int = MESSAGES_MAX) -> None:
        self._clock = clock
        self._max_messages = max_messages
        self._streams = {name: Stream(name, prefix, clock.now()) for name, prefix in STREAMS.items()}
        self._changed = anyio.Event()

    async def publish(self, entries: Sequence[OpLogEntry], onto: Sequence[StreamState]) -> list[Acknowledged | None]:
        unchanged = [state for state in onto if self._is_unchanged(state)]
        results: list[Acknowledged | None] = []
        held_up = set()
        for entry in entries:
            stream = next((self._streams[it.name] for it in unchanged if it.carries(entry.event)), None)
            if stream is None:
                held_up.add(entry.event.did)
            results.append(None if stream is None or entry.event.did in held_up else self._append(stream, entry.event))
        self._changed.set()
        self._changed = anyio.Event()
        return results

    def _is_unchanged(self, state: StreamState) -> bool:
        stream = self._streams[state.name]
        return (stream.created, stream.last_sequence) == (state.created, state.last_sequence)

    def _append(self, stream: Stream, event: Event) -> Acknowledged:
        now = self._clock.now()
        while stream.recent and now - next(iter(stream.recent.values()))[1] >= DUPLICATE_WINDOW:
            del stream.recent[next(iter(stream.recent))]
        if event.event_id in stream.recent:
            return Acknowledged(stream.recent[event.event_id][0], duplicate=True)
        stream.last_sequence += 1
        stream.recent[event.event_id] = (stream.last_sequence, now)
        stream.messages.append(Message(stream.last_sequence, event, now))
        while len(stream.messages) > self._max_messages:
            stream.complete_since = stream.messages.popleft().stored_at
        return Acknowledged(stream.last_sequence)

    async def streams(self) -> list[StreamState]:
        return [stream.state() for stream in self._streams.values()]

    async def message_ids(self, stream: StreamState, after: int = 0) -> AsyncGenerator[StreamMessage]:
        for message in list(self._streams[stream.name].messages):
            if after < message.sequence <= stream.last_sequence:
                yield StreamMessage(message.sequence, message.event.event_id, message.stored_at)

    async def follow(self, stream: str, after: int = 0) -> AsyncGenerator[Message]:
        """Yield the messages of `stream` (RA_RECORDS or RA_MEDIA) after that sequence, then new ones, without end.

        A follower that falls behind by more than the stream keeps misses messages; gaps in the sequence numbers show
        this.
        """
        messages = self._streams[stream].messages
        while True:
            changed = self._changed
            count_new = min(self._streams[stream].last_sequence - after, len(messages))
            for message in [messages[index] for index in range(-count_new, 0)]:
                after = message.sequence
                yield message
            await changed.wait()
