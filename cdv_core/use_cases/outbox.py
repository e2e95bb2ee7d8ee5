"""From the op log to the streams, and again when a stream has forgotten.

A run goes: lease → look at the streams → note what they keep already → publish onto exactly that → note what they
acknowledged. Dying after any of these leaves entries that a stream keeps and nobody has noted; they are at its end,
where the next run finds them before it publishes anything.

A stream has lost something when it is another one than before, ends earlier, has new gaps, or begins later than its
limits explain. Then the run publishes nothing: it compares the op log with the stream by event id and requeues what is
missing, so that the next runs publish it in op-log order, before anything newer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cdv_core.ports.clock import Clock
from cdv_core.ports.events import EventBus, StreamState
from cdv_core.ports.ids import IdSource
from cdv_core.ports.outbox import OpLogEntry, Outbox, StreamMark

BATCH_ENTRIES: Final = 500  # ours: about 350 KiB of events, some tens of milliseconds to publish
LEASE_LIFE: Final = timedelta(seconds=15)  # ours: longer than a publish may take; how long a dead relay holds others up
PAGE_ENTRIES: Final = 1000  # ours: read at once when comparing
CHUNK_ENTRIES: Final = 20_000  # ours: compared at once; some 4 MiB of ids, however long the log
EXPIRY_MARGIN: Final = timedelta(minutes=5)  # ours: more than clocks differ; what is about to expire is let go
_IDS_BETWEEN_RENEWALS: Final = 500


@dataclass(frozen=True, slots=True)
class Comparison:
    """A stream compared with the op log. `compared`: entries it should hold; `requeued`: those that it had lost."""

    stream: str
    compared: int
    requeued: int


@dataclass(frozen=True, slots=True)
class RelayOutcome:
    """What a run did. `leased`: False when another relay is at work, then the rest is nothing.

    `published`: entries noted as kept by a stream. `waiting`: entries not acknowledged, to be tried again. `more`: the
    batch was full, or a stream had lost something, so there is work to do at once. `comparisons`: of the streams that
    had lost something.
    """

    leased: bool
    published: int = 0
    waiting: int = 0
    more: bool = False
    comparisons: tuple[Comparison, ...] = ()


class Relay:
    """Publishes what the op log holds. Any number may run, on one outbox, in one process or many: one works at a time.

    At least once, in op-log order per DID; once, as long as each publication is noted or still found in its stream.
    """

    def __init__(
        self,
        outbox: Outbox,
        bus: EventBus,
        clock: Clock,
        ids: IdSource,
        *,
        batch_entries: int = BATCH_ENTRIES,
        chunk_entries: int = CHUNK_ENTRIES,
        lease_life: timedelta = LEASE_LIFE,
    ) -> None:
        self._outbox = outbox
        self._bus = bus
        self._clock = clock
        self._owner = ids.new(clock.now())
        self._batch_entries = batch_entries
        self._chunk_entries = chunk_entries
        self._lease_life = lease_life
        self._renew_at = clock.now()
        # Per incarnation of a stream, where it keeps the first that it must: while it begins no later, all is well.
        self._first_kept: dict[str, int] = {}

    async def run_once(self) -> RelayOutcome:
        """Publish a batch of what waits, or requeue what a stream has lost. Raises: Unavailable: outbox or bus."""
        entries = await self._lease(self._batch_entries)
        if entries is None:
            return RelayOutcome(leased=False)
        try:
            return await self._run(entries)
        except _Overtaken:
            return RelayOutcome(leased=False)
        finally:
            await self._outbox.release(self._owner)

    async def reconcile(self) -> list[Comparison] | None:
        """Compare every stream with the op log and requeue what is missing; None while another relay is at work.

        What may rightly be gone by a stream's limits is not missed. Memory is bounded, however long the log.
        Raises: Unavailable: the outbox or the bus; what was requeued until then stays so.
        """
        if await self._lease(0) is None:
            return None
        try:
            return await self._compare(await self._bus.streams(), await self._marks())
        except _Overtaken:
            return None
        finally:
            await self._outbox.release(self._owner)

    async def _run(self, entries: list[OpLogEntry]) -> RelayOutcome:
        states = await self._bus.streams()
        marks = await self._marks()
        lost = [state for state in states if await self._has_lost(state, marks.get(state.name))]
        if lost:
            comparisons = await self._compare(lost, marks)
            return RelayOutcome(leased=True, waiting=len(entries), more=True, comparisons=tuple(comparisons))
        kept = await self._kept_already(states, marks, entries)
        fresh = [entry for entry in entries if entry.sequence not in kept]
        published_at = self._clock.now()  # before it is: however long this stands still then, nothing seems younger
        answers = await self._bus.publish(fresh, states) if fresh else []
        for entry, answer in zip(fresh, answers, strict=True):
            if answer is not None:
                kept[entry.sequence] = answer.stream_sequence, published_at
        reached = [_mark(state, entries, kept) for state in states]
        changed = [mark for mark in reached if mark != marks.get(mark.name)]
        if kept or changed:
            await self._note([(sequence, *where) for sequence, where in sorted(kept.items())], changed)
        waiting = len(entries) - len(kept)
        more = len(entries) == self._batch_entries and bool(kept)
        return RelayOutcome(leased=True, published=len(kept), waiting=waiting, more=more)

    async def _kept_already(
        self, states: Sequence[StreamState], marks: Mapping[str, StreamMark], entries: Sequence[OpLogEntry]
    ) -> dict[int, tuple[int, datetime]]:
        """Return {sequence: (stream sequence, when)} of those entries that a stream took without anybody noting it."""
        # When is the stream's to say: the relay may have been away since, and what expires meanwhile is not lost.
        kept: dict[int, tuple[int, datetime]] = {}
        sequences = {entry.event.event_id: entry.sequence for entry in entries}
        for state in states:
            after = marks[state.name].last_sequence if state.name in marks else 0
            if after < state.last_sequence and sequences:
                async with aclosing(self._ids(state, after)) as ids:
                    async for stream_sequence, event_id, stored_at in ids:
                        if event_id in sequences:
                            kept[sequences[event_id]] = stream_sequence, stored_at
        return kept

    async def _has_lost(self, state: StreamState, mark: StreamMark | None) -> bool:
        if mark is None:
            return False
        if state.created != mark.created or state.last_sequence < mark.last_sequence or state.gaps > mark.gaps:
            return True
        if state.first_sequence <= self._first_kept.get(state.created, 1):
            return False
        # The stream has dropped its oldest: had their time come? The oldest entries that it must still hold tell. They
        # begin where entries have occurred since then or, if some were published late, before that. Looking only there
        # would not do: it may find what was published again, and none of what the stream has held for longer.
        floor = _floor(state)
        places: list[int] = []
        for moment_of in (_occurred_at, _published_at):
            position = await self._position(floor, moment_of)
            page = await self._outbox.read(position, PAGE_ENTRIES, state.subject_prefix)
            places += [
                it.stream_sequence for it in page if it.stream_sequence is not None and _published_since(it, floor)
            ]
        self._first_kept[state.created] = min(places, default=state.first_sequence)
        return self._first_kept[state.created] < state.first_sequence

    async def _compare(self, states: Sequence[StreamState], marks: Mapping[str, StreamMark]) -> list[Comparison]:
        compared = dict.fromkeys((state.name for state in states), 0)
        requeued = dict(compared)
        self._first_kept.clear()  # it may be kept elsewhere afterwards
        position = await self._position(self._searched_since(states), _published_at)
        while True:
            position, chunk = await self._read_chunk(position, states)
            if not any(chunk.values()):
                break
            for state in states:
                missing = await self._missing(state, chunk[state.name])
                await self._requeue(missing)
                compared[state.name] += len(chunk[state.name])
                requeued[state.name] += len(missing)
        # What the stream holds beyond these marks, the next run finds and notes.
        await self._note([], [_agreed(state, marks.get(state.name)) for state in states])
        return [Comparison(name, compared[name], requeued[name]) for name in compared]

    async def _read_chunk(
        self, position: int, states: Sequence[StreamState]
    ) -> tuple[int, dict[str, dict[str, tuple[int, int]]]]:
        """Return where the next chunk begins, and per stream {event id: (sequence, stream sequence)} it should hold."""
        chunk: dict[str, dict[str, tuple[int, int]]] = {state.name: {} for state in states}
        while sum(map(len, chunk.values())) < self._chunk_entries:
            page = await self._outbox.read(position, min(PAGE_ENTRIES, self._chunk_entries))
            if not page:
                break
            position = page[-1].sequence
            for entry in page:
                for state in states:
                    if (
                        entry.stream_sequence is not None
                        and entry.event.subject.startswith(state.subject_prefix)
                        and _published_since(entry, _floor(state))
                    ):
                        chunk[state.name][entry.event.event_id] = (entry.sequence, entry.stream_sequence)
            await self._renew()
        return position, chunk

    async def _missing(self, state: StreamState, expected: Mapping[str, tuple[int, int]]) -> list[int]:
        """Return the sequences of those expected that the stream does not hold anywhere, ascending.

        Notes the new place of those that it holds elsewhere than where it acknowledged them.
        """
        missing = dict(expected)
        moved: list[tuple[int, int, datetime]] = []
        first = min((stream_sequence for _, stream_sequence in expected.values()), default=1)
        # Mostly they are where they were acknowledged; the rest of the stream is read only for those that are not.
        for after, until in ((first - 1, state.last_sequence), (0, first - 1)):
            if not missing or after >= until:
                continue
            async with aclosing(self._ids(state, after)) as ids:
                async for stream_sequence, event_id, stored_at in ids:
                    if stream_sequence > until:
                        break
                    place = missing.pop(event_id, None)
                    if place is not None and place[1] != stream_sequence:
                        moved.append((place[0], stream_sequence, stored_at))
                    if not missing:
                        break
        if moved:
            await self._requeue([sequence for sequence, _, _ in moved])
            await self._note(moved)
        return sorted(sequence for sequence, _ in missing.values())

    async def _ids(self, state: StreamState, after: int) -> AsyncGenerator[tuple[int, str, datetime]]:
        """Yield as the bus does, and keep the lease however long that takes."""
        async with aclosing(self._bus.message_ids(state, after)) as ids:
            count = 0
            async for item in ids:
                count += 1
                if count % _IDS_BETWEEN_RENEWALS == 0:
                    await self._renew()
                yield item

    def _searched_since(self, states: Sequence[StreamState]) -> datetime | None:
        """Return since when the entries were published of which one stream or another may have lost some; None: ever.

        Twice as long ago as the streams keep anything. Sequences and times of publication ascend together, but for what
        was lost and published again: that is later than what follows it, which a bisection need not notice. Later by
        no more than a stream keeps anything, as what is older is not missed; so this far back, nothing is passed over
        but what had been lost twice before. Never later than `_has_lost` goes by: the relay would see what this passes
        over as lost in every run, and publish nothing.
        """
        floors = [_floor(state) for state in states]
        if None in floors:
            return None
        floor = min(floor for floor in floors if floor)
        return min(floor, floor - (self._clock.now() - floor))

    async def _position(self, since: datetime | None, moment_of: Callable[[OpLogEntry], datetime]) -> int:
        """Return a sequence after which lies all whose moment is since then, and little else.

        By bisection, as sequences and moments ascend together, but for clocks that differ less than EXPIRY_MARGIN, and
        for what was published again (see `_searched_since`).
        """
        if since is None:
            return 0
        older, newer = 0, 1
        while await self._is_older(newer, since, moment_of):
            older, newer = newer, newer * 2
        while newer - older > 1:
            middle = (older + newer) // 2
            if await self._is_older(middle, since, moment_of):
                older = middle
            else:
                newer = middle
        return older

    async def _is_older(self, position: int, since: datetime, moment_of: Callable[[OpLogEntry], datetime]) -> bool:
        following = await self._outbox.read(position, 1)
        return bool(following) and moment_of(following[0]) < since

    async def _marks(self) -> dict[str, StreamMark]:
        return {mark.name: mark for mark in await self._outbox.stream_marks()}

    async def _note(self, kept: Sequence[tuple[int, int, datetime]], marks: Sequence[StreamMark] = ()) -> None:
        if not await self._outbox.mark_published(self._owner, kept, marks):
            raise _Overtaken

    async def _requeue(self, sequences: Sequence[int]) -> None:
        if sequences and not await self._outbox.requeue(self._owner, sequences):
            raise _Overtaken

    async def _lease(self, limit: int) -> list[OpLogEntry] | None:
        now = self._clock.now()
        self._renew_at = now + self._lease_life / 3
        return await self._outbox.lease(self._owner, limit, now=now, expires_at=now + self._lease_life)

    async def _renew(self) -> None:
        if self._clock.now() >= self._renew_at and await self._lease(0) is None:
            raise _Overtaken


class _Overtaken(Exception):
    """Another relay has taken the lease."""


def _floor(state: StreamState) -> datetime | None:
    """Return since when the stream should hold everything; None: since ever."""
    return None if state.complete_since is None else state.complete_since + EXPIRY_MARGIN


def _occurred_at(entry: OpLogEntry) -> datetime:
    return entry.event.occurred_at


def _published_at(entry: OpLogEntry) -> datetime:
    """Return from when on the entry's time in its stream counts; if nobody noted that, when it occurred."""
    return entry.published_at or entry.event.occurred_at


def _published_since(entry: OpLogEntry, moment: datetime | None) -> bool:
    return moment is None or _published_at(entry) >= moment


def _mark(state: StreamState, entries: Sequence[OpLogEntry], kept: Mapping[int, tuple[int, datetime]]) -> StreamMark:
    """Return how far the stream has come: its end, or the acknowledgements beyond it."""
    acknowledged = [
        kept[entry.sequence][0]
        for entry in entries
        if entry.sequence in kept and entry.event.subject.startswith(state.subject_prefix)
    ]
    return StreamMark(state.name, state.created, max([state.last_sequence, *acknowledged]), state.gaps)


def _agreed(state: StreamState, mark: StreamMark | None) -> StreamMark:
    """Return up to where all that the stream holds was noted before: nothing of a new one."""
    same = mark is not None and mark.created == state.created
    return StreamMark(
        state.name, state.created, min(mark.last_sequence, state.last_sequence) if mark and same else 0, state.gaps
    )
