"""A state machine for outboxes: writers, three relays and a stream that loses events, compared with a model."""

from __future__ import annotations

from datetime import datetime
from typing import TypeAlias

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, rule

from cdv_core.domain.events import Event
from cdv_core.ports.outbox import Backlog, OpLogEntry, Publication, StreamMark
from conformance.ports.stores import (
    ALICE,
    BOB,
    CAROL,
    LIKE,
    POST,
    OpenStores,
    Stores,
    StoresMachine,
    a_record,
    an_asset,
    its_event,
    later,
)

DIDS = st.sampled_from([ALICE, BOB, CAROL])
OWNERS = st.sampled_from(["a", "A", "b"])
MOMENTS = st.integers(0, 12).map(later)
MARKS = st.builds(
    StreamMark,
    st.sampled_from(["RA_RECORDS", "RA_MEDIA"]),
    st.sampled_from(["2026-11-24T00:00:00Z", "2026-11-25T00:00:00Z"]),
    st.integers(0, 2**62),
    st.integers(0, 2**62),
)

EntryState: TypeAlias = tuple[Event, int | None, datetime | None]
"""The event of an entry, its sequence number in the stream, and when it was published."""


class OutboxModel:
    """The model. Entries are identified by event id, because each database assigns its own sequence numbers."""

    def __init__(self) -> None:
        self.events: dict[str, Event] = {}
        self.published: dict[str, tuple[int, datetime]] = {}
        self.marks: dict[str, StreamMark] = {}
        self.owner: str | None = None
        self.leased_until: datetime | None = None

    def entries(self, event_ids: list[str]) -> list[EntryState]:
        return [(self.events[event_id], *self.published.get(event_id, (None, None))) for event_id in event_ids]

    def lease(self, owner: str, limit: int, now: datetime, expires_at: datetime) -> list[EntryState] | None:
        latest = expires_at + (expires_at - now)
        if self.owner not in {None, owner} and self.leased_until is not None and now < self.leased_until <= latest:
            return None
        self.owner, self.leased_until = owner, expires_at
        return self.entries([event_id for event_id in self.events if event_id not in self.published][:limit])

    def mark_published(
        self, owner: str, acknowledged: dict[str, tuple[int, datetime]], marks: list[StreamMark]
    ) -> bool:
        if self.owner != owner:
            return False
        self.published = acknowledged | self.published
        self.marks |= {mark.name: mark for mark in marks}
        return True

    def requeue(self, owner: str, event_ids: list[str]) -> bool:
        if self.owner != owner:
            return False
        self.published = {event_id: where for event_id, where in self.published.items() if event_id not in event_ids}
        return True

    def release(self, owner: str) -> None:
        if self.owner == owner:
            self.owner = None

    def backlog(self) -> Backlog:
        moments = [event.occurred_at for event_id, event in self.events.items() if event_id not in self.published]
        return Backlog(len(moments), min(moments, default=None))

    def read(self, after: str | None, limit: int, prefix: str) -> list[EntryState]:
        later_ids = list(self.events)
        if after is not None:
            later_ids = later_ids[later_ids.index(after) + 1 :]
        return self.entries([it for it in later_ids if self.events[it].subject.startswith(prefix)][:limit])


def entry_states(entries: list[OpLogEntry]) -> list[EntryState]:
    return [(entry.event, entry.stream_sequence, entry.published_at) for entry in entries]


async def sequences(stores: Stores) -> dict[str, int]:
    """Return the sequence number of each entry by its event id."""
    return {entry.event.event_id: entry.sequence for entry in await stores.outbox.read(0, 10_000)}


class OutboxMachine(StoresMachine):
    event_ids = Bundle("event_ids")

    def __init__(self) -> None:
        super().__init__()
        self.model = OutboxModel()

    @rule(target=event_ids, did=DIDS, collection=st.sampled_from([POST, LIKE]), at=MOMENTS)
    def write_a_record(self, did, collection, at):
        record = a_record(len(self.model.events), did, collection, at=at)
        event = its_event(record)
        self.check(lambda stores: stores.records.create(record, event), lambda: None)
        self.model.events[event.event_id] = event
        return event.event_id

    @rule(target=event_ids, did=DIDS)
    def finalise_an_asset(self, did):
        asset = an_asset(len(self.model.events), did)
        event = its_event(asset)

        async def finalize(stores: Stores):
            await stores.media.add(asset)
            await stores.media.claim(asset.asset_id, "0" * 64)
            await stores.media.finalize(asset.asset_id, event)

        self.check(finalize, lambda: None)
        self.model.events[event.event_id] = event
        return event.event_id

    @rule(owner=OWNERS, limit=st.integers(0, 5), now=MOMENTS, expires_at=MOMENTS)
    def lease(self, owner, limit, now, expires_at):
        async def leased(stores: Stores):
            entries = await stores.outbox.lease(owner, limit, now=now, expires_at=expires_at)
            if entries is None:
                return None
            assert [entry.sequence for entry in entries] == sorted(entry.sequence for entry in entries)
            return entry_states(entries)

        self.check(leased, lambda: self.model.lease(owner, limit, now, expires_at))

    @rule(
        owner=OWNERS,
        acknowledged=st.dictionaries(event_ids, st.tuples(st.integers(1, 2**62), MOMENTS), max_size=4),
        marks=st.lists(MARKS, max_size=2, unique_by=lambda mark: mark.name),
    )
    def mark_published(self, owner, acknowledged, marks):
        async def mark(stores: Stores):
            own = await sequences(stores)
            return await stores.outbox.mark_published(
                owner, [Publication(own[event_id], *acknowledged[event_id]) for event_id in acknowledged], marks
            )

        self.check(mark, lambda: self.model.mark_published(owner, acknowledged, marks))

    @rule(owner=OWNERS, lost=st.lists(event_ids, max_size=3))
    def requeue(self, owner, lost):
        async def requeue(stores: Stores):
            own = await sequences(stores)
            return await stores.outbox.requeue(owner, [own[event_id] for event_id in lost])

        self.check(requeue, lambda: self.model.requeue(owner, lost))

    @rule(owner=OWNERS)
    def release(self, owner):
        self.check(lambda stores: stores.outbox.release(owner), lambda: self.model.release(owner))

    @rule()
    def backlog(self):
        self.check(lambda stores: stores.outbox.backlog(), lambda: self.model.backlog())

    @rule(
        after=st.none() | event_ids,
        limit=st.integers(1, 5),
        prefix=st.sampled_from(["", "cdv.records.", "cdv.media.", "cdv.records.com.registryaccord.feed.l", "cdv_"]),
    )
    def read(self, after, limit, prefix):
        async def read(stores: Stores):
            sequence = 0 if after is None else (await sequences(stores))[after]
            entries = await stores.outbox.read(sequence, limit, prefix)
            assert all(entry.sequence > sequence for entry in entries)
            return entry_states(entries)

        self.check(read, lambda: self.model.read(after, limit, prefix))

    @invariant()
    def marks_are_the_latest_by_name(self):
        self.check(
            lambda stores: stores.outbox.stream_marks(),
            lambda: [self.model.marks[name] for name in sorted(self.model.marks)],
        )

    @invariant()
    def every_entry_is_kept_in_order(self):
        async def everything(stores: Stores):
            entries = await stores.outbox.read(0, 10_000)
            assert [entry.sequence for entry in entries] == sorted({entry.sequence for entry in entries})
            return entry_states(entries)

        self.check(everything, lambda: self.model.entries(list(self.model.events)))


def outbox_machine(*opened_by: OpenStores) -> type[OutboxMachine]:
    """Return a state machine for these databases, to be passed to `run_state_machine_as_test`."""
    return type("OutboxMachine", (OutboxMachine,), {"opened_by": opened_by})
