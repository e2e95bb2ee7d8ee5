"""What must hold after any disaster, checked in the database and in the stream."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from dataclasses import dataclass

import httpx
import nats
import psycopg
from nats.aio.msg import Msg

from tests.chaos.writers import Outcomes

_DRAIN_SECONDS = 60.0


@dataclass(frozen=True)
class Findings:
    """Counts of what was compared. `published`: messages in the record stream."""

    acknowledged: int
    records: int
    op_log: int
    published: int


async def audit(
    dsn: str, nats_url: str, base_url: str, outcomes: Outcomes, delivered: list[tuple[str, str]] | None = None
) -> Findings:
    """Check every acknowledged write; return the counts. Fails on the first violation.

    `delivered`: (event id, DID) of every message as a subscriber received it; needed where the stream was purged and
    its own order is lost.
    """
    assert outcomes.unexpected == []
    records, op_log, keys = await _database(dsn)
    for did, kept in outcomes.records.items():
        lost = kept.keys() - records[did].keys()
        assert not lost, f"{len(lost)} acknowledged records of {did} are gone"
        assert all(records[did][uri] == cid for uri, cid in kept.items()), "a stored CID is not the acknowledged one"
    stored = {uri for each in records.values() for uri in each}
    event_uris = [uri for _, uri, _ in op_log]
    assert len(event_uris) == len(set(event_uris)), "a record has two events in the op log"
    assert set(event_uris) == stored, "a write is there by half: record without event, or event without record"
    assert keys == len(stored), "a write is there by half: record without its key"
    await _drained(dsn)
    published = await _published(nats_url)
    _compare_events(op_log, published, published if delivered is None else list(dict.fromkeys(delivered)))
    await _listing_agrees(base_url, records)
    return Findings(outcomes.acknowledged, len(stored), len(op_log), len(published))


async def _database(dsn: str) -> tuple[dict[str, dict[str, str]], list[tuple[str, str, str]], int]:
    records: dict[str, dict[str, str]] = defaultdict(dict)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        rows = await connection.execute("SELECT did, collection, rkey, cid FROM records")
        async for did, collection, rkey, cid in rows:
            records[did][f"at://{did}/{collection}/{rkey}"] = cid
        rows = await connection.execute("SELECT event_id, did, envelope::text FROM op_log ORDER BY sequence")
        op_log = [(event_id, json.loads(envelope)["payload"]["uri"], did) async for event_id, did, envelope in rows]
        count = await (await connection.execute("SELECT count(*) FROM replies")).fetchone()
    assert count is not None
    return records, op_log, count[0]


async def _drained(dsn: str) -> None:
    deadline = time.monotonic() + _DRAIN_SECONDS
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = await (
                await connection.execute("SELECT count(*) FROM op_log WHERE stream_sequence IS NULL")
            ).fetchone()
            if row == (0,):
                return
            await asyncio.sleep(0.1)
    raise AssertionError(f"the backlog did not drain within {_DRAIN_SECONDS} s: {row} events wait")


async def _published(nats_url: str) -> list[tuple[str, str]]:
    """Return (event id, DID) of every message of the record stream, in its order."""
    client = await nats.connect(nats_url)
    try:
        jetstream = client.jetstream()
        total = (await jetstream.stream_info("RA_RECORDS")).state.messages
        subscription = await jetstream.subscribe("cdv.records.>", stream="RA_RECORDS", ordered_consumer=True)
        messages = [await subscription.next_msg(timeout=10) for _ in range(total)]
    finally:
        await client.close()
    return [event_of(message) for message in messages]


def event_of(message: Msg) -> tuple[str, str]:
    """Return (event id, DID).

    After a loss an event is published again with its id and a position, since the stream still remembers the id alone
    (docs/adr/004-op-log-is-the-outbox.md).
    """
    return (message.headers or {})["Nats-Msg-Id"].partition(".")[0], json.loads(message.data)["payload"]["did"]


def _compare_events(
    op_log: list[tuple[str, str, str]], published: list[tuple[str, str]], in_order: list[tuple[str, str]]
) -> None:
    ids = [event_id for event_id, _ in published]
    assert len(ids) == len(set(ids)), "an event is in the stream twice"
    assert set(ids) == {event_id for event_id, _, _ in op_log}, "the stream and the op log hold different events"
    expected: dict[str, list[str]] = defaultdict(list)
    actual: dict[str, list[str]] = defaultdict(list)
    for event_id, _, did in op_log:
        expected[did].append(event_id)
    for event_id, did in in_order:
        actual[did].append(event_id)
    assert actual == expected, "the events of a DID are not in op-log order"


async def _listing_agrees(base_url: str, records: dict[str, dict[str, str]]) -> None:
    """Walk one DID's pages: every record exactly once."""
    did = max(records, key=lambda each: len(records[each]))
    listed: list[str] = []
    parameters = {"did": did, "limit": "100"}
    async with httpx.AsyncClient(base_url=base_url, timeout=10) as client:
        while True:
            page = (await client.get("/v1/repo/listRecords", params=parameters)).json()["data"]
            listed += [record["uri"] for record in page["records"]]
            if "nextCursor" not in page:
                break
            parameters["cursor"] = page["nextCursor"]
    assert sorted(listed) == sorted(records[did])
