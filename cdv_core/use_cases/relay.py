"""The relay: publishes the events in the op log to the streams.

A run: lease → read the streams' states → record what they already hold → publish onto exactly that state → record the
acknowledgements. A crash after any step leaves entries that a stream holds and that are not recorded; they are at its
end, where the next run finds them before it publishes anything.

When a stream has lost messages, the run publishes nothing and reconciles it instead
(cdv_core/use_cases/reconciliation.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from cdv_core.ports.clock import Clock
from cdv_core.ports.events import EventBus, StreamState
from cdv_core.ports.ids import IdSource
from cdv_core.ports.outbox import OpLogEntry, Outbox, Publication, StreamMark
from cdv_core.use_cases.reconciliation import CHUNK_ENTRIES, Comparison, Reconciliation
from cdv_core.use_cases.relay_lease import LeaseLost, RelayLease

BATCH_ENTRIES: Final = 500  # ours: about 350 KiB of events, some tens of milliseconds to publish


@dataclass(frozen=True, slots=True)
class RelayOutcome:
    """The result of a run. `leased`: False when another relay held the lease; then the other fields are empty.

    `published`: entries recorded as published. `waiting`: entries not acknowledged, to be retried. `more`: the batch
    was full, or a stream had lost messages, so there is more to do immediately. `comparisons`: of the streams that had
    lost messages.
    """

    leased: bool
    published: int = 0
    waiting: int = 0
    more: bool = False
    comparisons: tuple[Comparison, ...] = ()


class Relay:
    """Publishes unpublished op-log entries. Any number may run on one outbox, in any processes; one is active at once.

    At least once, in op-log order per DID. Exactly once, as long as each publication is recorded or still found in its
    stream.
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
    ) -> None:
        self._outbox = outbox
        self._bus = bus
        self._clock = clock
        self._batch_entries = batch_entries
        self._lease = RelayLease(outbox, clock, ids.new(clock.now()))
        self._reconciliation = Reconciliation(outbox, bus, clock, self._lease, chunk_entries=chunk_entries)

    async def run_once(self) -> RelayOutcome:
        """Publish one batch, or requeue what a stream has lost. Raises: Unavailable: the outbox or the bus."""
        entries = await self._lease.acquire(self._batch_entries)
        if entries is None:
            return RelayOutcome(leased=False)
        try:
            return await self._run(entries)
        except LeaseLost:
            return RelayOutcome(leased=False)
        finally:
            await self._lease.release()

    async def reconcile(self) -> list[Comparison] | None:
        """Compare every stream with the op log and requeue what is missing; None while another relay is active.

        Messages that a stream's limits have removed do not count as missing. Memory is bounded, whatever the log's
        length. Raises: Unavailable: the outbox or the bus; what was requeued until then stays requeued.
        """
        if await self._lease.acquire(0) is None:
            return None
        try:
            return await self._reconciliation.compare(await self._bus.streams(), await self._marks())
        except LeaseLost:
            return None
        finally:
            await self._lease.release()

    async def _run(self, entries: list[OpLogEntry]) -> RelayOutcome:
        states = await self._bus.streams()
        marks = await self._marks()
        lost = [state for state in states if await self._reconciliation.has_lost_messages(state, marks.get(state.name))]
        if lost:
            comparisons = await self._reconciliation.compare(lost, marks)
            return RelayOutcome(leased=True, waiting=len(entries), more=True, comparisons=tuple(comparisons))
        publications = await self._find_unrecorded(states, marks, entries)
        pending = [entry for entry in entries if entry.sequence not in publications]
        # Taken before publishing: however long this process is suspended, no entry seems younger than it is.
        published_at = self._clock.now()
        acknowledgements = await self._bus.publish(pending, states) if pending else []
        for entry, acknowledged in zip(pending, acknowledgements, strict=True):
            if acknowledged is not None:
                publications[entry.sequence] = Publication(entry.sequence, acknowledged.stream_sequence, published_at)
        current = [_mark(state, entries, publications) for state in states]
        changed = [mark for mark in current if mark != marks.get(mark.name)]
        if publications or changed:
            await self._lease.mark_published(sorted(publications.values()), changed)
        waiting = len(entries) - len(publications)
        more = len(entries) == self._batch_entries and bool(publications)
        return RelayOutcome(leased=True, published=len(publications), waiting=waiting, more=more)

    async def _find_unrecorded(
        self, states: Sequence[StreamState], marks: Mapping[str, StreamMark], entries: Sequence[OpLogEntry]
    ) -> dict[int, Publication]:
        """Return, by op-log sequence, those entries that a stream already holds without it having been recorded.

        `published_at` is the time the stream gives: the entry may have been stored long ago, and its age in the stream
        decides whether it expired or was lost.
        """
        publications: dict[int, Publication] = {}
        sequences = {entry.event.event_id: entry.sequence for entry in entries}
        for state in states:
            after = marks[state.name].last_sequence if state.name in marks else 0
            if after < state.last_sequence and sequences:
                async with aclosing(self._lease.renewing(self._bus.message_ids(state, after))) as messages:
                    async for message in messages:
                        if message.event_id in sequences:
                            sequence = sequences[message.event_id]
                            publications[sequence] = Publication(sequence, message.sequence, message.stored_at)
        return publications

    async def _marks(self) -> dict[str, StreamMark]:
        return {mark.name: mark for mark in await self._outbox.stream_marks()}


def _mark(state: StreamState, entries: Sequence[OpLogEntry], publications: Mapping[int, Publication]) -> StreamMark:
    """Return the stream's mark after publishing: its end, or the highest acknowledgement beyond it."""
    acknowledged = [
        publications[entry.sequence].stream_sequence
        for entry in entries
        if entry.sequence in publications and state.carries(entry.event)
    ]
    return StreamMark(state.name, state.created, max([state.last_sequence, *acknowledged]), state.gaps)
