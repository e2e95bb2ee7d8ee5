"""An event bus that can lose, refuse and delete messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from itertools import takewhile

from cdv_adapters.events.memory import MemoryEventBus, Message, Stream
from cdv_core.errors import Unavailable
from cdv_core.ports.clock import Clock
from cdv_core.ports.events import Acknowledged, StreamMessage, StreamState
from cdv_core.ports.outbox import OpLogEntry


async def nothing() -> None:
    """The default hook."""


class FakeEventBus(MemoryEventBus):
    """`down`: every call raises Unavailable. `refused`: ids of events that are not stored.

    `lost_acknowledgements`: ids of events that are stored, once, without an acknowledgement. `before_publish`: a hook
    run once, after the caller has checked the streams and before anything is sent. `after_publish`: a hook run once,
    after the acknowledgements.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.down = False
        self.refused: set[str] = set()
        self.lost_acknowledgements: set[str] = set()
        self.before_publish = self.after_publish = nothing
        for stream in self._streams.values():
            stream.complete_since = None

    async def publish(self, entries: Sequence[OpLogEntry], onto: Sequence[StreamState]) -> list[Acknowledged | None]:
        self._reach()
        before, self.before_publish = self.before_publish, nothing
        await before()
        answers = await self._publish(entries, onto)
        after, self.after_publish = self.after_publish, nothing
        await after()
        return answers

    async def _publish(self, entries: Sequence[OpLogEntry], onto: Sequence[StreamState]) -> list[Acknowledged | None]:
        if any(state != self._streams[state.name].state() for state in onto):
            return await super().publish(entries, onto)
        answers: list[Acknowledged | None] = []
        blocked = set()
        for entry in entries:
            answer = None
            if entry.event.did not in blocked and entry.event.event_id not in self.refused:
                current = [self._streams[state.name].state() for state in onto]
                (answer,) = await super().publish([entry], current)
            if entry.event.event_id in self.lost_acknowledgements:
                self.lost_acknowledgements.discard(entry.event.event_id)
                answer = None
            if answer is None:
                blocked.add(entry.event.did)
            answers.append(answer)
        return answers

    async def streams(self) -> list[StreamState]:
        self._reach()
        return await super().streams()

    async def message_ids(self, stream: StreamState, after: int = 0) -> AsyncGenerator[StreamMessage]:
        self._reach()
        async for item in super().message_ids(stream, after):
            yield item

    def ids(self, name: str = "RA_RECORDS") -> list[str]:
        """Return the ids of the stream's messages, in order."""
        return [message.event.event_id for message in self._streams[name].messages]

    def recreate(self, name: str = "RA_RECORDS") -> None:
        """Delete and recreate the stream."""
        old = self._streams[name]
        self._streams[name] = Stream(name, old.subject_prefix, old.complete_since)

    def roll_back(self, last_sequence: int, name: str = "RA_RECORDS") -> None:
        """Restore an older copy of the stream's files."""
        stream = self._streams[name]
        kept = list(takewhile(lambda message: message.sequence <= last_sequence, stream.messages))
        self._hold(stream, kept)
        stream.last_sequence = last_sequence

    def purge(self, keep: int = 0, name: str = "RA_RECORDS") -> None:
        """Remove all but the latest `keep`."""
        stream = self._streams[name]
        self._hold(stream, list(stream.messages)[len(stream.messages) - keep :])

    def delete(self, *sequences: int, name: str = "RA_RECORDS") -> None:
        """Remove single messages."""
        stream = self._streams[name]
        self._hold(stream, [message for message in stream.messages if message.sequence not in sequences])

    def expire(self, age: timedelta) -> None:
        """Drop messages stored longer than `age` ago from both streams, and set `complete_since`."""
        for stream in self._streams.values():
            since = stream.complete_since = self._clock.now() - age
            self._hold(stream, [message for message in stream.messages if message.stored_at >= since])

    def _hold(self, stream: Stream, messages: list[Message]) -> None:
        stream.messages.clear()
        stream.messages.extend(messages)
        kept = {message.event.event_id for message in messages}
        stream.recent = {event_id: stored for event_id, stored in stream.recent.items() if event_id in kept}

    def _reach(self) -> None:
        if self.down:
            raise Unavailable("events")
