"""Reconciliation: compare the op log with the streams, and requeue the entries that a stream has lost.

A stream has lost messages when it is another incarnation than before, ends earlier, has new gaps, or begins later than
its limits explain. Op log and stream are then compared by event id, and what is missing is made unpublished again, so
that the relay's next runs publish it in op-log order, before anything newer. See docs/adr/004-op-log-is-the-outbox.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cdv_core.ports.clock import Clock
from cdv_core.ports.events import EventBus, StreamState
from cdv_core.ports.outbox import OpLogEntry, Outbox, Publication, StreamMark
from cdv_core.use_cases.relay_lease import RelayLease

PAGE_ENTRIES: Final = 1000  # ours: entries per read of the op log
CHUNK_ENTRIES: Final = 20_000  # ours: entries compared together; about 4 MiB of ids, whatever the log's length
EXPIRY_MARGIN: Final = timedelta(
    minutes=5
)  # ours: exceeds the clocks' difference; what expires this soon is not missed


@dataclass(frozen=True, slots=True)
class Comparison:
    """A stream compared with the op log. `compared`: entries it should hold. `requeued`: those it had lost."""

    stream: str
    compared: int
    requeued: int


class _Position(NamedTuple):
    """An entry's position in the op log and in its stream."""

    sequence: int
    stream_sequence: int


class Reconciliation:
    """Finds what streams have lost and requeues it, under `lease`. Memory is bounded, whatever the log's length."""

    def __init__(self, outbox: Outbox, bus: EventBus, clock: Clock, lease: RelayLease, *, chunk_entries: int) -> None:
        self._outbox = outbox
        self._bus = bus
        self._clock = clock
        self._lease = lease
        self._chunk_entries = chunk_entries
        # Per incarnation of a stream: the first sequence it must still hold. While it begins no later, nothing is lost.
        self._first_required: dict[str, int] = {}

    async def has_lost_messages(self, state: StreamState, mark: StreamMark | None) -> bool:
        """Return whether the stream lacks messages that it held at `mark` and that its limits do not explain."""
        if mark is None:
            return False
        if state.created != mark.created or state.last_sequence < mark.last_sequence or state.gaps > mark.gaps:
            return True
        if state.first_sequence <= self._first_required.get(state.created, 1):
            return False
        # The stream has dropped its oldest messages. To tell expiry from loss, find the oldest entries that it must
        # still hold. They begin at the first entry that occurred since then or, if some were published late, at the
        # first published since then. The second search alone is not enough: it may find an entry that was published
        # again, and miss all that the stream has held for longer.
        required_since = _required_since(state)
        stream_sequences: list[int] = []
        for time_of in (_occurred_at, _published_at):
            position = await self._find_position(required_since, time_of)
            page = await self._outbox.read(position, PAGE_ENTRIES, state.subject_prefix)
            stream_sequences += [
                entry.stream_sequence
                for entry in page
                if entry.stream_sequence is not None and _was_published_since(entry, required_since)
            ]
        self._first_required[state.created] = min(stream_sequences, default=state.first_sequence)
        return self._first_required[state.created] < state.first_sequence

    async def compare(self, states: Sequence[StreamState], marks: Mapping[str, StreamMark]) -> list[Comparison]:
        """Compare these streams with the op log and requeue what is missing. Raises: LeaseLost. Unavailable."""
        compared = dict.fromkeys((state.name for state in states), 0)
        requeued = dict(compared)
        self._first_required.clear()  # entries may have other stream sequences afterwards
        position = await self._find_position(self._search_start(states), _published_at)
        while True:
            position, chunk = await self._read_chunk(position, states)
            if not any(chunk.values()):
                break
            for state in states:
                missing = await self._find_missing(state, chunk[state.name])
                await self._lease.requeue(missing)
                compared[state.name] += len(chunk[state.name])
                requeued[state.name] += len(missing)
        # The relay's next run finds and records whatever the stream holds after these marks.
        await self._lease.mark_published([], [_reconciled_mark(state, marks.get(state.name)) for state in states])
        return [Comparison(name, compared[name], requeued[name]) for name in compared]

    async def _read_chunk(
        self, position: int, states: Sequence[StreamState]
    ) -> tuple[int, dict[str, dict[str, _Position]]]:
        """Return where the next chunk begins and, per stream, the event ids that it should hold in this chunk."""
        chunk: dict[str, dict[str, _Position]] = {state.name: {} for state in states}
        while sum(map(len, chunk.values())) < self._chunk_entries:
            page = await self._outbox.read(position, min(PAGE_ENTRIES, self._chunk_entries))
            if not page:
                break
            position = page[-1].sequence
            for entry in page:
                for state in states:
                    if (
                        entry.stream_sequence is not None
                        and state.carries(entry.event)
                        and _was_published_since(entry, _required_since(state))
                    ):
                        chunk[state.name][entry.event.event_id] = _Position(entry.sequence, entry.stream_sequence)
            await self._lease.renew()
        return position, chunk

    async def _find_missing(self, state: StreamState, expected: Mapping[str, _Position]) -> list[int]:
        """Return the op-log sequences of the expected events that the stream does not hold anywhere, ascending.

        Events that it holds at another sequence than it acknowledged are marked as published there.
        """
        missing = dict(expected)
        moved: list[Publication] = []
        first = min((position.stream_sequence for position in expected.values()), default=1)
        # Most are where they were acknowledged; the rest of the stream is read only for those that are not.
        for after, until in ((first - 1, state.last_sequence), (0, first - 1)):
            if not missing or after >= until:
                continue
            async with aclosing(self._lease.renewing(self._bus.message_ids(state, after))) as messages:
                async for message in messages:
                    if message.sequence > until:
                        break
                    position = missing.pop(message.event_id, None)
                    if position is not None and position.stream_sequence != message.sequence:
                        moved.append(Publication(position.sequence, message.sequence, message.stored_at))
                    if not missing:
                        break
        if moved:
            await self._lease.requeue([publication.sequence for publication in moved])
            await self._lease.mark_published(moved)
        return sorted(position.sequence for position in missing.values())

    def _search_start(self, states: Sequence[StreamState]) -> datetime | None:
        """Return the publication time from which to search for entries that any of these streams may lack; None: all.

        It lies twice the retention period ago. Publication times ascend with op-log sequence, except for entries that
        were lost and published again: such an entry has a later time than its successors, which a bisection need not
        notice. It is later by at most one retention period, because older losses are not requeued; so a search from
        this far back passes over nothing but entries that had been lost twice before. The result is never later than
        the time that `has_lost_messages` uses: otherwise every run of the relay would report as lost what this search
        passes over, and publish nothing.
        """
        times = [_required_since(state) for state in states]
        if None in times:
            return None
        earliest = min(time for time in times if time)
        return min(earliest, earliest - (self._clock.now() - earliest))

    async def _find_position(self, since: datetime | None, time_of: Callable[[OpLogEntry], datetime]) -> int:
        """Return a sequence after which are all entries with a time at or after `since`, and few others.

        By bisection: times ascend with sequence, except for clock differences below EXPIRY_MARGIN and for entries that
        were published again (see `_search_start`).
        """
        if since is None:
            return 0
        older, newer = 0, 1
        while await self._is_older(newer, since, time_of):
            older, newer = newer, newer * 2
        while newer - older > 1:
            middle = (older + newer) // 2
            if await self._is_older(middle, since, time_of):
                older = middle
            else:
                newer = middle
        return older

    async def _is_older(self, position: int, since: datetime, time_of: Callable[[OpLogEntry], datetime]) -> bool:
        following = await self._outbox.read(position, 1)
        return bool(following) and time_of(following[0]) < since


def _required_since(state: StreamState) -> datetime | None:
    """Return the time since which the stream must hold everything; None: since its beginning."""
    return None if state.complete_since is None else state.complete_since + EXPIRY_MARGIN


def _occurred_at(entry: OpLogEntry) -> datetime:
    return entry.event.occurred_at


def _published_at(entry: OpLogEntry) -> datetime:
    """Return when the entry's age in its stream began; if that was not recorded, when the event occurred."""
    return entry.published_at or entry.event.occurred_at


def _was_published_since(entry: OpLogEntry, moment: datetime | None) -> bool:
    return moment is None or _published_at(entry) >= moment


def _reconciled_mark(state: StreamState, mark: StreamMark | None) -> StreamMark:
    """Return a mark up to which everything in the stream is recorded: sequence 0 for another incarnation."""
    same = mark is not None and mark.created == state.created
    return StreamMark(
        state.name, state.created, min(mark.last_sequence, state.last_sequence) if mark and same else 0, state.gaps
    )
