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
from tests.core.relaying import ADA, BOB, Setting, drain


def run(setting: Setting, *arguments: str, broker: bool = True) -> int:
    """Run `cdv events` with these arguments and return its exit code."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[EventsAccess]:
        yield EventsAccess(setting.outbox, setting.clock, setting.relay() if broker else None)

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(), opened)
    parsed = parser.parse_args(["events", *arguments])
    code: int = parsed.run(parsed)
    return code


def commit(setting: Setting, number: int) -> Any:
    event = record_created(a_record(number), event_id=setting.ids.new(setting.clock.now()), correlation_id="test")
    setting.outbox.append(event)
    return event


def test_events_are_printed_for_people(capsys: pytest.CaptureFixture[str]):
    setting = Setting()
    commit(setting, 1)
    asyncio.run(drain(setting.relay()))
    commit(setting, 2)
    assert run(setting) == 0
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


def test_events_are_printed_for_scripts(capsys: pytest.CaptureFixture[str]):
    setting = Setting()
    event = commit(setting, 1)
    assert run(setting, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "sequence": 1,
        "eventId": event.event_id,
        "streamSequence": None,
        "event": json.loads(event.envelope),
    }


def test_events_are_printed_from_a_sequence_on(capsys: pytest.CaptureFixture[str]):
    setting = Setting()
    for number in range(5):
        commit(setting, number)
    assert run(setting, "--from", "4", "--json") == 0
    assert [json.loads(line)["sequence"] for line in capsys.readouterr().out.splitlines()] == [4, 5]


def following(setting: Setting) -> AsyncGenerator[OpLogEntry]:
    return follow(setting.outbox, setting.clock, 0, poll_seconds=0)


async def test_following_goes_on_with_what_comes():
    setting = Setting()
    commit(setting, 1)
    async with asyncio.timeout(30), aclosing(following(setting)) as entries:
        assert (await anext(entries)).sequence == 1
        coming = asyncio.ensure_future(anext(entries))
        await asyncio.sleep(0)
        commit(setting, 2)
        assert (await coming).sequence == 2


async def test_following_misses_no_entry_that_commits_late():
    setting = Setting()
    for number in range(4):
        commit(setting, number)
    second, third = setting.outbox.entries.pop(2), setting.outbox.entries.pop(3)
    async with asyncio.timeout(30), aclosing(following(setting)) as entries:
        assert [(await anext(entries)).sequence for _ in range(2)] == [1, 4]
        setting.outbox.entries = {2: second, 3: third, **setting.outbox.entries}
        assert [(await anext(entries)).sequence for _ in range(2)] == [2, 3]


async def test_following_gives_up_a_sequence_that_was_never_committed():
    setting = Setting()
    for number in range(4):
        commit(setting, number)
    setting.outbox.entries.pop(2)
    setting.clock.moment += timedelta(minutes=2)
    reads = []
    read = setting.outbox.read

    async def noted(after: int, limit: int, subject_prefix: str = "") -> Any:
        reads.append(after)
        return await read(after, limit, subject_prefix)

    setting.outbox.read = noted  # type: ignore[method-assign]
    async with asyncio.timeout(30), aclosing(following(setting)) as entries:
        assert [(await anext(entries)).sequence for _ in range(3)] == [1, 3, 4]
        coming = asyncio.ensure_future(anext(entries))
        while len(reads) < 4:
            await asyncio.sleep(0)
        setting.outbox.entries[5] = replace(setting.outbox.entries[4], sequence=5)
        assert (await coming).sequence == 5
    assert reads[:4] == [0, 4, 4, 4]


def test_following_without_a_start_begins_with_what_comes(capsys: pytest.CaptureFixture[str], monkeypatch):
    setting = Setting()
    for number in range(21):
        commit(setting, number)
    asked = []

    async def from_there(outbox: Any, clock: Any, after: int) -> Any:
        asked.append(after)
        for entry in await outbox.read(after, 10):
            yield entry

    monkeypatch.setattr("cdv_http.commands.events.follow", from_there)
    assert run(setting, "--follow") == 0
    assert run(setting, "--follow", "--from", "21", "--json") == 0
    assert asked == [21, 20]
    assert json.loads(capsys.readouterr().out)["sequence"] == 21


def test_reconcile_reports_and_publishes_what_was_lost(capsys: pytest.CaptureFixture[str]):
    setting = Setting()
    written = [setting.write(ADA), setting.write(BOB)]
    asyncio.run(drain(setting.relay()))
    setting.bus.recreate()
    assert run(setting, "reconcile") == 0
    assert capsys.readouterr().out.splitlines() == [
        "RA_RECORDS: 2 compared, 2 lost and published again",
        "RA_MEDIA: 0 compared, 0 lost and published again",
    ]
    assert setting.bus.ids() == written
    assert run(setting, "reconcile", "--json") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"stream": "RA_RECORDS", "compared": 2, "requeued": 0},
        {"stream": "RA_MEDIA", "compared": 0, "requeued": 0},
    ]


def test_reconcile_without_a_broker_says_so(capsys: pytest.CaptureFixture[str]):
    assert run(Setting(), "reconcile", broker=False) == 1
    assert "CDV_NATS_URL" in capsys.readouterr().err


async def test_reconcile_gives_up_when_another_relay_does_not_finish():
    setting = Setting()
    later = setting.clock.now() + LEASE_LIFE
    await setting.outbox.lease("another", 0, now=setting.clock.now(), expires_at=later)

    @asynccontextmanager
    async def opened() -> AsyncIterator[EventsAccess]:
        yield EventsAccess(setting.outbox, setting.clock, setting.relay())

    with pytest.raises(Unavailable):
        await reconcile(argparse.Namespace(json=False), opened, timeout_seconds=0)


async def test_reconcile_waits_for_a_broker_that_is_being_reached(capsys: pytest.CaptureFixture[str]):
    setting = Setting()
    setting.bus.down = True

    @asynccontextmanager
    async def opened() -> AsyncIterator[EventsAccess]:
        yield EventsAccess(setting.outbox, setting.clock, setting.relay())

    waiting = asyncio.ensure_future(reconcile(argparse.Namespace(json=False), opened))
    await asyncio.sleep(0)
    setting.bus.down = False
    assert await waiting == 0
    assert "RA_RECORDS: 0 compared" in capsys.readouterr().out
