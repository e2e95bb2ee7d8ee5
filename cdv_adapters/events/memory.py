"""Streams within this process, for embedding programs and tests: gone when it ends."""

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
    """An event in its stream. `sequence`: its place, from 1, without holes. `stored_at`: when it came."""

    sequence: int
    event: Event
    stored_at: datetime


@dataclass(slots=True)
class Stream:
    """`complete_since`: from when on it holds everything it was given; None: from the beginning."""

    name: str
    subject_prefix: str
    complete_since: datetime | None
    messages: deque[Message] = field(default_factory=deque)
    last_sequence: int = 0
    created: str = field(default_factory=lambda: f"memory-{next(_incarnations)}")
    # Event id → (stream sequence, when it came), in the order in which they came.
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
    """Keeps the latest `max_messages` of each stream. For one event loop."""

    def __init__(self, clock: Clock, *, max_messages: int = MESSAGES_MAX) -> None:
        self._clock = clock
        self._max_messages = max_messages
        self._streams = {name: Stream(name, prefix, clock.now()) for name, prefix in STREAMS.items()}
        self._changed = anyio.Event()

    async def publish(self, entries: Sequence[OpLogEntry], onto: Sequence[StreamState]) -> list[Acknowledged | None]:
        unchanged = [state for state in onto if self._is_unchanged(state)]
        answers: list[Acknowledged | None] = []
        held_up = set()
        for entry in entries:
            stream = next((self._streams[it.name] for it in unchanged if it.carries(entry.event)), None)
            if stream is None:
                held_up.add(entry.event.did)
            answers.append(None if stream is None or entry.event.did in held_up else self._keep(stream, entry.event))
        self._changed.set()
        self._changed = anyio.Event()
        return answers

    def _is_unchanged(self, state: StreamState) -> bool:
        stream = self._streams[state.name]
        return (stream.created, stream.last_sequence) == (state.created, state.last_sequence)

    def _keep(self, stream: Stream, event: Event) -> Acknowledged:
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
        """Yield what `stream` (RA_RECORDS or RA_MEDIA) holds after that sequence, then what comes, without an end.

        A follower who falls behind by more than the stream keeps misses what was dropped: the sequences show it.
        """
        messages = self._streams[stream].messages
        while True:
            changed = self._changed
            count_new = min(self._streams[stream].last_sequence - after, len(messages))
            for message in [messages[place] for place in range(-count_new, 0)]:
                after = message.sequence
                yield message
            await changed.wait()
