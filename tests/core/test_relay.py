"""The relay on fakes: order, repetition, death at any line, and company."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdv_core.errors import Unavailable
from cdv_core.use_cases.relay import Relay, RelayOutcome
from tests.core.relaying import ADA, BOB, MEDIA, Setting, drain


async def test_what_was_committed_is_published_in_op_log_order_and_noted():
    setting = Setting()
    written = [setting.write(ADA), setting.write(BOB), setting.write(ADA)]
    media = setting.write(ADA, MEDIA)
    assert await drain(setting.relay()) == [RelayOutcome(leased=True, published=4)]
    assert setting.bus.ids("RA_RECORDS") == written
    assert setting.bus.ids("RA_MEDIA") == [media]
    assert [entry.stream_sequence for entry in setting.outbox.entries.values()] == [1, 2, 3, 1]
    assert {entry.published_at for entry in setting.outbox.entries.values()} == {setting.clock.now()}


async def test_nothing_is_sent_twice():
    setting = Setting()
    written = [setting.write(), setting.write()]
    relay = setting.relay()
    await drain(relay)
    assert await drain(relay) == [RelayOutcome(leased=True)]
    assert setting.bus.ids() == written


async def test_a_full_batch_says_that_there_is_more():
    setting = Setting()
    written = [setting.write() for _ in range(5)]
    outcomes = await drain(setting.relay(batch_entries=2))
    assert [(outcome.published, outcome.more) for outcome in outcomes] == [(2, True), (2, True), (1, False)]
    assert setting.bus.ids() == written


async def test_an_entry_that_commits_late_is_published():
    setting = Setting()
    late, early = setting.write(ADA), setting.write(BOB)
    hidden = setting.outbox.entries.pop(1)
    await drain(setting.relay())
    setting.outbox.entries = {1: hidden, **setting.outbox.entries}
    await drain(setting.relay())
    assert setting.bus.ids() == [early, late]


async def test_while_an_entry_is_refused_the_rest_of_its_did_waits():
    setting = Setting()
    first, other, second = setting.write(ADA), setting.write(BOB), setting.write(ADA)
    setting.bus.refused = {first}
    assert await drain(setting.relay()) == [RelayOutcome(leased=True, published=1, waiting=2)]
    assert setting.bus.ids() == [other]
    setting.bus.refused = set()
    await drain(setting.relay())
    assert setting.bus.ids() == [other, first, second]


async def test_a_lost_acknowledgement_is_found_in_the_stream_instead_of_sent_again():
    setting = Setting()
    written = [setting.write(), setting.write()]
    setting.bus.lost_acknowledgements = set(written)
    relay = setting.relay()
    assert await relay.run_once() == RelayOutcome(leased=True, waiting=2)
    # Longer than the duplicate window: the stream itself would not recognise them any more.
    setting.clock.advance(3600)
    await drain(relay)
    assert setting.bus.ids() == written
    assert [entry.stream_sequence for entry in setting.outbox.entries.values()] == [1, 2]


async def test_nothing_goes_onto_a_stream_that_another_relay_has_written_to_meanwhile():
    setting = Setting()
    first, second = setting.write(ADA), setting.write(ADA)

    async def meanwhile() -> None:
        await setting.bus.publish([setting.outbox.entries[1]], await setting.bus.streams())

    setting.bus.before_publish = meanwhile
    assert await drain(setting.relay()) == [RelayOutcome(leased=True, waiting=2)]
    await drain(setting.relay())
    assert setting.bus.ids() == [first, second]


async def test_while_one_relay_works_the_other_does_nothing():
    setting = Setting()
    setting.write()
    one, other = setting.relay(), setting.relay()
    seen = []

    async def meanwhile() -> None:
        seen.append(await other.run_once())

    setting.bus.before_publish = meanwhile
    assert await one.run_once() == RelayOutcome(leased=True, published=1)
    assert seen == [RelayOutcome(leased=False)]


async def test_two_relays_in_turn_publish_everything_once_and_in_order():
    setting = Setting()
    one, other = setting.relay(batch_entries=3), setting.relay(batch_entries=2)
    written = []
    for _ in range(10):
        written += [setting.write(ADA), setting.write(BOB)]
        await one.run_once()
        await other.run_once()
    await drain(one)
    assert setting.bus.ids() == written


async def test_the_lease_is_given_up_when_the_bus_is_down():
    setting = Setting()
    setting.write()
    setting.bus.down = True
    with pytest.raises(Unavailable):
        await setting.relay().run_once()
    setting.bus.down = False
    assert await setting.relay().run_once() == RelayOutcome(leased=True, published=1)


async def test_a_relay_that_was_overtaken_notes_nothing():
    setting = Setting()
    written = setting.write()
    slow, quick = setting.relay(), setting.relay()

    async def overtake() -> None:
        setting.clock.advance(3600)
        setting.bus.recreate()
        later = setting.clock.now() + timedelta(seconds=10)
        await setting.outbox.lease("quick", 0, now=setting.clock.now(), expires_at=later)

    setting.bus.after_publish = overtake
    assert await slow.run_once() == RelayOutcome(leased=False)
    assert setting.outbox.entries[1].stream_sequence is None
    setting.clock.advance(10)
    await drain(quick)
    assert setting.bus.ids() == [written]


class Killed(BaseException):
    """The process has died."""


class Mortal:
    """Passes calls on to `target` until `life` is used up; each call and each return takes one from it."""

    def __init__(self, target: Any, life: list[int]) -> None:
        self._target, self._life = target, life

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)
        if name == "message_ids":
            return method

        async def call(*arguments: Any, **options: Any) -> Any:
            self._spend()
            result = await method(*arguments, **options)
            self._spend()
            return result

        return call

    def _spend(self) -> None:
        self._life[0] -= 1
        if self._life[0] < 0:
            raise Killed


@given(
    lives=st.lists(st.integers(0, 30), max_size=6),
    writers=st.lists(st.sampled_from([(ADA, "record"), (BOB, "record"), (ADA, MEDIA)]), min_size=1, max_size=12),
    pause=st.sampled_from([1, 16, 600]),
    batch_entries=st.integers(1, 5),
)
async def test_dying_at_any_line_loses_nothing_repeats_nothing_and_keeps_the_order(
    lives, writers, pause, batch_entries
):
    setting = Setting()
    for life in lives:
        for did, kind in writers:
            setting.write(did, MEDIA) if kind == MEDIA else setting.write(did)
        left = [life]
        mortal = Relay(
            Mortal(setting.outbox, left),
            Mortal(setting.bus, left),
            setting.clock,
            setting.ids,
            batch_entries=batch_entries,
        )
        with suppress(Killed):
            while True:
                await mortal.run_once()
        setting.clock.advance(pause)
    setting.clock.advance(16)
    await drain(setting.relay())
    committed = list(setting.outbox.entries.values())
    for name, prefix in (("RA_RECORDS", "cdv.records."), ("RA_MEDIA", "cdv.media.")):
        assert setting.bus.ids(name) == [it.event.event_id for it in committed if it.event.subject.startswith(prefix)]
    assert all(entry.stream_sequence for entry in committed)
