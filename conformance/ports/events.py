"""The contract of event buses. To test an adapter, inherit EventBusContract and provide the fixture `open_bus`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, TypeAlias

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import Did
from cdv_core.ports.events import STREAMS, Acknowledged, EventBus, StreamState
from cdv_core.ports.outbox import OpLogEntry

OpenBus: TypeAlias = Callable[[], AbstractAsyncContextManager[EventBus]]
"""Opens a bus with empty streams; leaving the context closes it."""

Received: TypeAlias = Callable[[EventBus], Awaitable[list[tuple[str, str, bytes]]]]
"""Returns what a consumer of both streams receives: (subject, event id, body) of each message, in stream order."""

DIDS = (Did("did:plc:alice"), Did("did:web:bob.example"), Did("did:plc:carol"))
SUBJECTS = (
    "cdv.records.com.registryaccord.feed.post.created",
    "cdv.records.com.example.a.created",
    "cdv.media.finalized",
)
RECORDS, MEDIA = STREAMS
BOUNDED = settings(max_examples=6, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
AT = datetime(2026, 11, 24, 2, 53, 29, 331656, tzinfo=UTC)


def an_entry(number: int, did: Did = DIDS[0], subject: str = SUBJECTS[0]) -> OpLogEntry:
    """Return op-log entry `number`, whose event id is derived from the number."""
    return OpLogEntry(number, Event(f"{number:026d}", did, subject, b'{"number": %d}' % number, AT))


def stream_of(entry: OpLogEntry) -> str:
    return next(name for name, prefix in STREAMS.items() if entry.event.subject.startswith(prefix))


async def ids_of(bus: EventBus, name: str = RECORDS, after: int = 0) -> list[tuple[int, str]]:
    (state,) = [state for state in await bus.streams() if state.name == name]
    async with aclosing(bus.message_ids(state, after)) as ids:
        return [(sequence, event_id) async for sequence, event_id, _ in ids]


class EventBusContract:
    """To use it, inherit and provide the fixture `open_bus`."""

    @pytest.fixture
    async def bus(self, open_bus: OpenBus):
        async with open_bus() as bus:
            yield bus

    @pytest.fixture
    def received(self) -> Received | None:
        """Override it if the streams can be read in another way than through the bus."""
        return None

    async def test_a_consumer_receives_each_event_unchanged_under_its_subject(
        self, bus: EventBus, received: Received | None
    ):
        if received is None:
            pytest.skip("the streams of this bus cannot be read in another way than through the bus")
        entries = [an_entry(number, DIDS[number % 3], SUBJECTS[number % 3]) for number in range(1, 10)]
        await bus.publish(entries, await bus.streams())
        await bus.publish(entries, await bus.streams())

        got = await received(bus)

        sent = [(entry.event.subject, entry.event.event_id, entry.event.envelope) for entry in entries]
        assert [it for it in got if it[0] == SUBJECTS[2]] == [it for it in sent if it[0] == SUBJECTS[2]]
        assert [it for it in got if it[0] != SUBJECTS[2]] == [it for it in sent if it[0] != SUBJECTS[2]]

    async def test_there_is_one_empty_stream_of_records_and_one_of_media(self, bus: EventBus):
        states = await bus.streams()
        assert [(state.name, state.subject_prefix) for state in states] == list(STREAMS.items())
        assert [(it.first_sequence, it.last_sequence, it.messages, it.gaps) for it in states] == [(1, 0, 0, 0)] * 2
        assert await ids_of(bus) == []

    async def test_acknowledged_entries_are_stored_at_the_acknowledged_sequence(self, bus: EventBus):
        entries = [
            an_entry(1),
            an_entry(2, DIDS[1]),
            an_entry(3, subject=SUBJECTS[1]),
            an_entry(4, DIDS[2], SUBJECTS[2]),
        ]
        answers = await bus.publish(entries, await bus.streams())
        assert answers == [Acknowledged(1), Acknowledged(2), Acknowledged(3), Acknowledged(1)]
        assert await ids_of(bus, RECORDS) == [(n, an_entry(n).event.event_id) for n in (1, 2, 3)]
        assert await ids_of(bus, MEDIA) == [(1, an_entry(4).event.event_id)]
        assert [(state.first_sequence, state.last_sequence, state.messages) for state in await bus.streams()] == [
            (1, 3, 3),
            (1, 1, 1),
        ]

    async def test_a_stream_keeps_its_incarnation(self, bus: EventBus):
        before = [state.created for state in await bus.streams()]
        await bus.publish([an_entry(1)], await bus.streams())
        assert [state.created for state in await bus.streams()] == before

    async def test_500_entries_published_together_keep_their_order(self, bus: EventBus):
        entries = [an_entry(number, DIDS[number % 3]) for number in range(1, 501)]
        assert await bus.publish(entries, await bus.streams()) == [Acknowledged(number) for number in range(1, 501)]
        assert [event_id for _, event_id in await ids_of(bus)] == [entry.event.event_id for entry in entries]

    async def test_an_entry_that_is_published_again_is_stored_once(self, bus: EventBus):
        await bus.publish([an_entry(1), an_entry(2)], await bus.streams())
        again = await bus.publish([an_entry(1), an_entry(2), an_entry(3)], await bus.streams())
        assert again == [Acknowledged(1, duplicate=True), Acknowledged(2, duplicate=True), Acknowledged(3)]
        assert [sequence for sequence, _ in await ids_of(bus)] == [1, 2, 3]

    async def test_duplicate_and_new_entries_may_be_mixed(self, bus: EventBus):
        await bus.publish([an_entry(2), an_entry(4)], await bus.streams())
        answers = await bus.publish([an_entry(number) for number in range(1, 6)], await bus.streams())
        assert answers == [
            Acknowledged(3),
            Acknowledged(1, duplicate=True),
            Acknowledged(4),
            Acknowledged(2, duplicate=True),
            Acknowledged(5),
        ]

    async def test_publishing_onto_an_outdated_stream_state_adds_nothing(self, bus: EventBus):
        before = await bus.streams()
        await bus.publish([an_entry(1)], before)
        assert await bus.publish([an_entry(2), an_entry(3, DIDS[1])], before) == [None, None]
        assert [sequence for sequence, _ in await ids_of(bus)] == [1]

    async def test_an_entry_that_is_not_stored_blocks_its_did_in_the_other_stream_too(self, bus: EventBus):
        before = await bus.streams()
        await bus.publish([an_entry(1)], before)
        entries = [
            an_entry(2, DIDS[0], SUBJECTS[2]),
            an_entry(3, DIDS[0], SUBJECTS[0]),
            an_entry(4, DIDS[0], SUBJECTS[2]),
            an_entry(5, DIDS[1], SUBJECTS[2]),
        ]
        first, second, third, fourth = await bus.publish(entries, before)
        assert (second, third) == (None, None)
        assert first is not None
        assert fourth is not None
        assert {event_id for _, event_id in await ids_of(bus, MEDIA)} == {
            entries[0].event.event_id,
            entries[3].event.event_id,
        }

    async def test_message_ids_can_be_read_from_any_sequence_and_stopped_early(self, bus: EventBus):
        await bus.publish([an_entry(number) for number in range(1, 6)], await bus.streams())
        assert [sequence for sequence, _ in await ids_of(bus, after=3)] == [4, 5]
        assert await ids_of(bus, after=5) == []
        (state, _) = await bus.streams()
        async with aclosing(bus.message_ids(state)) as ids:
            assert (await anext(ids))[:2] == (1, an_entry(1).event.event_id)

    async def test_message_ids_end_at_the_last_sequence_of_the_given_state(self, bus: EventBus):
        await bus.publish([an_entry(1), an_entry(2)], await bus.streams())
        (state, _) = await bus.streams()
        await bus.publish([an_entry(3)], await bus.streams())
        async with aclosing(bus.message_ids(state)) as ids:
            assert [sequence async for sequence, _, _ in ids] == [1, 2]

    async def test_message_ids_include_the_time_stored(self, bus: EventBus):
        for number in (1, 2, 3):
            await bus.publish([an_entry(number)], await bus.streams())
        (state, _) = await bus.streams()
        async with aclosing(bus.message_ids(state)) as ids:
            times = [stored_at async for _, _, stored_at in ids]
        assert times == sorted(times)
        assert {stored_at.utcoffset() for stored_at in times} == {timedelta()}

    def test_any_sequence_of_publications_matches_the_model(self, open_bus: OpenBus):
        run_state_machine_as_test(event_bus_machine(open_bus), settings=BOUNDED)

    async def test_publishing_no_entries_returns_no_acknowledgements(self, bus: EventBus):
        assert await bus.publish([], await bus.streams()) == []


class EventBusMachine(RuleBasedStateMachine):
    """Any sequence of publications: new, repeated, or onto an outdated state; the model is a list per stream."""

    opened_by: ClassVar[OpenBus]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._exits = AsyncExitStack()
        self.bus: EventBus = self.run(self._exits.enter_async_context(type(self).opened_by()))
        self.observed: list[list[StreamState]] = [self.run(self.bus.streams())]
        self.held: dict[str, list[str]] = {name: [] for name in STREAMS}

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)

    def teardown(self) -> None:
        self.run(self._exits.aclose())
        self._runner.close()

    @rule(
        entries=st.lists(
            st.builds(lambda number: an_entry(number, DIDS[number % 3], SUBJECTS[number % 5 % 3]), st.integers(1, 40)),
            max_size=8,
            unique_by=lambda entry: entry.sequence,
        ),
        back=st.sampled_from([0, 0, 0, 1, 2]),
    )
    def publish(self, entries: list[OpLogEntry], back: int) -> None:
        onto = self.observed[max(0, len(self.observed) - 1 - back)]
        accepts = {state.name: state.last_sequence == len(self.held[state.name]) for state in onto}
        answers = self.run(self.bus.publish(entries, onto))
        self.observed.append(self.run(self.bus.streams()))
        ids = {name: dict(self.run(ids_of(self.bus, name))) for name in STREAMS}
        blocked = set()
        last: dict[tuple[str, Did], int] = {}
        for entry, answer in zip(entries, answers, strict=True):
            name, event = stream_of(entry), entry.event
            if not accepts[name] or event.did in blocked:
                blocked.add(event.did)
                assert answer is None
                continue
            assert answer is not None
            assert ids[name][answer.stream_sequence] == event.event_id
            assert answer.duplicate == (event.event_id in self.held[name])
            if not answer.duplicate:
                # Entries of one DID keep their order; entries of different DIDs may be interleaved in any way.
                assert answer.stream_sequence > last.get((name, event.did), len(self.held[name]))
                last[name, event.did] = answer.stream_sequence
        added = {(stream_of(it), it.event.event_id) for it, answer in zip(entries, answers, strict=True) if answer}
        for name, kept in self.held.items():
            assert list(ids[name].values())[: len(kept)] == kept
            new = list(ids[name].values())[len(kept) :]
            assert sorted(new) == sorted({event_id for stream, event_id in added if stream == name} - set(kept))
            kept += new

    @invariant()
    def the_states_match_the_stored_messages(self) -> None:
        for state in self.observed[-1]:
            count = len(self.held[state.name])
            assert (state.first_sequence, state.last_sequence, state.messages, state.gaps) == (1, count, count, 0)
            assert state.created == next(first.created for first in self.observed[0] if first.name == state.name)


def event_bus_machine(open_bus: OpenBus) -> type[EventBusMachine]:
    return type("EventBusMachine", (EventBusMachine,), {"opened_by": staticmethod(open_bus)})
