"""Many events are published as one atomic batch if the stream allows it, and one by one otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from nats.aio.client import Client, ServerVersion

from cdv_adapters.events.nats_connection import NatsAccess
from cdv_adapters.events.nats_publication import Publication
from cdv_core.ports.events import Acknowledged
from conformance.ports.events import an_entry, ids_of
from tests.adapters.nats_relaying import connected, operator

_MANY = [an_entry(number) for number in range(1, 101)]
_ALL = [(entry.sequence, entry.event.event_id) for entry in _MANY]


async def batches(jetstream: Any, sequences: Iterable[int]) -> list[str | None]:
    """Return the batch id of each message."""
    messages = [await jetstream.get_msg("RA_RECORDS", sequence) for sequence in sequences]
    return [(message.headers or {}).get("Nats-Batch-Id") for message in messages]


async def test_many_events_are_published_as_one_atomic_batch(nats_url: str):
    async with connected(NatsAccess(nats_url)) as bus, operator(nats_url) as jetstream:
        for entries in (_MANY[:60], _MANY[60:]):
            acknowledged = [Acknowledged(entry.sequence) for entry in entries]
            assert await bus.publish(entries, await bus.streams()) == acknowledged
        assert await ids_of(bus) == _ALL
        of_first, of_second = set(await batches(jetstream, range(1, 61))), set(await batches(jetstream, range(61, 101)))
        assert len(of_first) == len(of_second) == 1
        assert None not in of_first | of_second
        assert of_first != of_second


async def test_few_events_are_published_without_a_batch(nats_url: str):
    async with connected(NatsAccess(nats_url)) as bus, operator(nats_url) as jetstream:
        await bus.publish(_MANY[:3], await bus.streams())
        assert await batches(jetstream, (1, 2, 3)) == [None] * 3


async def test_a_batch_that_contains_a_duplicate_stores_the_other_events(nats_url: str):
    async with connected(NatsAccess(nats_url)) as bus:
        await bus.publish([_MANY[50]], await bus.streams())
        found = await bus.publish(_MANY, await bus.streams())
        assert [answer and answer.stream_sequence for answer in found] == [*range(2, 52), 1, *range(52, 101)]
        assert [index for index, answer in enumerate(found) if answer and answer.duplicate] == [50]
        assert sorted(event_id for _, event_id in await ids_of(bus)) == [event_id for _, event_id in _ALL]


async def test_a_batch_onto_an_outdated_stream_state_is_refused(nats_url: str):
    async with connected(NatsAccess(nats_url)) as bus:
        outdated = await bus.streams()
        await bus.publish([an_entry(999)], outdated)
        assert await bus.publish(_MANY, outdated) == [None] * len(_MANY)
        assert len(await ids_of(bus)) == 1


async def test_a_stream_without_allow_atomic_is_sent_no_batch(nats_url: str):
    async with operator(nats_url) as jetstream:
        await jetstream.add_stream(name="RA_RECORDS", subjects=["cdv.records.>"])
        listener = await jetstream._nc.subscribe("cdv.records.>")
        await jetstream._nc.flush()
        async with connected(NatsAccess(nats_url)) as bus:
            await bus.publish(_MANY, await bus.streams())
            assert await ids_of(bus) == _ALL
        received = [await listener.next_msg() for _ in _MANY]
        assert not any("Nats-Batch-Id" in message.headers for message in received)


async def test_more_events_than_the_batch_limit_are_published_without_a_batch(nats_url: str):
    too_many = [an_entry(number) for number in range(1, 1102)]  # the limit is 1,000
    async with connected(NatsAccess(nats_url)) as bus, operator(nats_url) as jetstream:
        assert await bus.publish(too_many, await bus.streams()) == [Acknowledged(entry.sequence) for entry in too_many]
        assert await batches(jetstream, (1, 1101)) == [None, None]


async def test_a_server_version_without_batches_is_sent_none(nats_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Client, "connected_server_version", ServerVersion("2.11.9"))
    async with connected(NatsAccess(nats_url)) as bus, operator(nats_url) as jetstream:
        assert bus.differences == ()
        await bus.publish(_MANY, await bus.streams())
        assert await ids_of(bus) == _ALL
        assert set(await batches(jetstream, range(1, 101))) == {None}


@pytest.mark.parametrize("count", [1, 60], ids=["one by one", "in a batch"])
@pytest.mark.parametrize("garbage", [b"<html>", b"[]", b"{}", b'{"seq":null}', b'{"error":"no"}', b""])
async def test_an_invalid_response_counts_as_no_acknowledgement(
    nats_url: str, monkeypatch: pytest.MonkeyPatch, garbage: bytes, count: int
):
    exchange = Publication._exchange

    async def garbled(*arguments: Any) -> list[Any]:
        answers: list[Any] = await exchange(*arguments)
        for answer in answers:
            answer.data = garbage
        return answers

    async with connected(NatsAccess(nats_url)) as bus:
        streams = await bus.streams()
        monkeypatch.setattr(Publication, "_exchange", garbled)
        assert await bus.publish(_MANY[:count], streams) == [None] * count


async def test_an_unexpected_error_on_one_stream_is_raised_after_the_other_is_published(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
):
    add = Publication._add

    async def adding(self: Publication, end: Any, sent: Any) -> None:
        if end.name == "RA_MEDIA":
            raise ZeroDivisionError
        await add(self, end, sent)

    async with connected(NatsAccess(nats_url)) as bus:
        monkeypatch.setattr(Publication, "_add", adding)
        with pytest.raises(ZeroDivisionError):
            await bus.publish(_MANY[:3], await bus.streams())
        assert await ids_of(bus) == _ALL[:3]
