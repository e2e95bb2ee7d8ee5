"""`cdv events`, as `main` would run it."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from cdv_core.domain.events import record_created
from cdv_core.errors import Unavailable
from cdv_core.ports.outbox import OpLogEntry
from cdv_core.use_cases.relay_lease import LEASE_LIFE
from cdv_http.commands.events import EventsAccess, add_parser, follow, reconcile
from conformance.ports.stores import a_record
from tests.core.relaying import ADA, BOB, Harness, drain


def run(harness: Harness, *arguments: str, broker: bool = True) -> int:
    """Run `cdv events` with these arguments and return its exit code."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[EventsAccess]:
        yield EventsAccess(harness.outbox, harness.clock, harness.relay() if broker else None)

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(), opened)
    parsed = parser.parse_args(["events", *arguments])
    code: int = parsed.run(parsed)
    return code


def commit(harness: Harness, number: int) -> Any:
    event = record_created(a_record(number), event_id=harness.ids.new(harness.clock.now()), correlation_id="test")
    harness.outbox.append(event)
    return event


def test_events_are_printed_as_text(capsys: pytest.CaptureFixture[str]):
    harness = Harness()
    commit(harness, 1)
    asyncio.run(drain(harness.relay()))
    commit(harness, 2)
    assert run(harness) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split("  ") == [
        "1",
        "2026-11-24T02:53:30.331656Z",
        "cdv.records.com.registryaccord.feed.post.created",
        f"at://did:plc:alice/com.registryaccord.feed.post/{1:026d}",
        "published as 1",
    ]
    assert second.startswith("2  ")
    assert second.endswith("  waiting")


def test_events_are_printed_as_json(capsys: pytest.CaptureFixture[str]):
    harness = Harness()
    event = commit(harness, 1)
    assert run(harness, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "sequence": 1,
        "eventId": event.event_id,
        "streamSequence": None,
        "event": json.loads(event.envelope),
    }


def test_events_are_printed_from_a_sequence_on(capsys: pytest.CaptureFixture[str]):
    harness = Harness()
    for number in range(5):
        commit(harness, number)
    assert run(harness, "--from", "4", "--json") == 0
    assert [json.loads(line)["sequence"] for line in capsys.readouterr().out.splitlines()] == [4, 5]


def following(harness: Harness) -> AsyncGenerator[OpLogEntry]:
    return follow(harness.outbox, harness.clock, 0, poll_seconds=0)


async def test_follow_yields_events_that_are_committed_later():
    harness = Harness()
    commit(harness, 1)
    async with asyncio.timeout(30), aclosing(following(harness)) as entries:
        assert (await anext(entries)).sequence == 1
        coming = asyncio.ensure_future(anext(entries))
        await asyncio.sleep(0)
        commit(harness, 2)
        assert (await coming).sequence == 2


async def test_follow_yields_entries_that_commit_out_of_order():
    harness = Harness()
    for number in range(4):
        commit(harness, number)
    second, third = harness.outbox.entries.pop(2), harness.outbox.entries.pop(3)
    async with asyncio.timeout(30), aclosing(following(harness)) as entries:
        assert [(await anext(entries)).sequence for _ in range(2)] == [1, 4]
        harness.outbox.entries = {2: second, 3: third, **harness.outbox.entries}
        assert [(await anext(entries)).sequence for _ in range(2)] == [2, 3]


async def test_follow_stops_waiting_for_a_sequence_that_was_never_committed():
    harness = Harness()
    for number in range(4):
        commit(harness, number)
    harness.outbox.entries.pop(2)
    harness.clock.moment += timedelta(minutes=2)
    reads = []
    read = harness.outbox.read

    async def recorded(after: int, limit: int, subject_prefix: str = "") -> Any:
        reads.append(after)
        return await read(after, limit, subject_prefix)

    harness.outbox.read = recorded  # type: ignore[method-assign]
    async with asyncio.timeout(30), aclosing(following(harness)) as entries:
        assert [(await anext(entries)).sequence for _ in range(3)] == [1, 3, 4]
        coming = asyncio.ensure_future(anext(entries))
        while len(reads) < 4:
            await asyncio.sleep(0)
        harness.outbox.entries[5] = replace(harness.outbox.entries[4], sequence=5)
        assert (await coming).sequence == 5
    assert reads[:4] == [0, 4, 4, 4]


def test_follow_without_from_starts_after_the_last_entry(capsys: pytest.CaptureFixture[str], monkeypatch):
    harness = Harness()
    for number in range(21):
        commit(harness, number)
    starts = []

    async def from_there(outbox: Any, clock: Any, after: int) -> Any:
        starts.append(after)
        for entry in await outbox.read(after, 10):
            yield entry

    monkeypatch.setattr("cdv_http.commands.events.follow", from_there)
    assert run(harness, "--follow") == 0
    assert run(harness, "--follow", "--from", "21", "--json") == 0
    assert starts == [21, 20]
    assert json.loads(capsys.readouterr().out)["sequence"] == 21


def test_reconcile_reports_and_republishes_lost_events(capsys: pytest.CaptureFixture[str]):
    harness = Harness()
    written = [harness.write(ADA), harness.write(BOB)]
    asyncio.run(drain(harness.relay()))
    harness.bus.recreate()
    assert run(harness, "reconcile") == 0
    assert capsys.readouterr().out.splitlines() == [
        "RA_RECORDS: 2 compared, 2 lost and published again",
        "RA_MEDIA: 0 compared, 0 lost and published again",
    ]
    assert harness.bus.ids() == written
    assert run(harness, "reconcile", "--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"stream": "RA_RECORDS", "compared": 2, "requeued": 0},
        {"stream": "RA_MEDIA", "compared": 0, "requeued": 0},
    ]


def test_reconcile_without_a_broker_fails_naming_the_setting(capsys: pytest.CaptureFixture[str]):
    assert run(Harness(), "reconcile", broker=False) == 1
    assert "CDV_NATS_URL" in capsys.readouterr().err


async def test_reconcile_times_out_while_another_relay_holds_the_lease():
    harness = Harness()
    later = harness.clock.now() + LEASE_LIFE
    await harness.outbox.lease("another", 0, now=harness.clock.now(), expires_at=later)

    @asynccontextmanager
    async def opened() -> AsyncIterator[EventsAccess]:
        yield EventsAccess(harness.outbox, harness.clock, harness.relay())

    with pytest.raises(Unavailable):
        await reconcile(argparse.Namespace(json=False), opened, timeout_seconds=0)


async def test_reconcile_waits_until_the_broker_is_connected(capsys: pytest.CaptureFixture[str]):
    harness = Harness()
    harness.bus.down = True

    @asynccontextmanager
    async def opened() -> AsyncIterator[EventsAccess]:
        yield EventsAccess(harness.outbox, harness.clock, harness.relay())

    waiting = asyncio.ensure_future(reconcile(argparse.Namespace(json=False), opened))
    await asyncio.sleep(0)
    harness.bus.down = False
    assert await waiting == 0
    assert "RA_RECORDS: 0 compared" in capsys.readouterr().out
