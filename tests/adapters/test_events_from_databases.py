"""From a database to NATS: concurrent relays publish committed events, and republish those that the stream loses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from cdv_adapters.clock.system import SystemClock
from cdv_adapters.database.postgres_migration import migrate
from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.events.nats import NatsEventBus
from cdv_adapters.events.nats_connection import NatsAccess
from cdv_adapters.ids.ulid import UlidSource
from cdv_adapters.media.sqlite import SqliteMediaStore
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_adapters.records.sqlite import SqliteRecordStore
from cdv_adapters.visibility.sqlite import SqliteOwnerOnlyStore
from cdv_core.domain.identifiers import Did
from cdv_core.use_cases.relay import Relay
from conformance.ports.events import ids_of
from conformance.ports.stores import ALICE, BOB, Stores, a_record, an_asset, its_event
from tests.adapters.nats_relaying import operator
from tests.adapters.postgres_stores import open_postgres

RECORDS = 60


@pytest.fixture(params=["sqlite", "postgres"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    if request.param == "sqlite":
        async with SqliteDatabase(tmp_path / "vault.sqlite3") as database:
            yield Stores(
                SqliteRecordStore(database),
                SqliteMediaStore(database),
                SqliteOutbox(database),
                SqliteOwnerOnlyStore(database),
            )
    else:
        dsn = request.getfixturevalue("postgres_dsn")
        await migrate(dsn)
        async with open_postgres(dsn) as stores:
            yield stores


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[NatsEventBus]:
    async with NatsEventBus(NatsAccess(nats_url)) as bus:
        await bus.connected()
        yield bus


async def commit(stores: Stores, did: Did, numbers: range, age: timedelta = timedelta()) -> None:
    for number in numbers:
        record = a_record(number, did, at=SystemClock().now() - age)
        await stores.records.create(record, its_event(record))


async def publish_everything(stores: Stores, bus: NatsEventBus) -> None:
    """Run two concurrent relays until nothing is left to publish."""
    clock, ids = SystemClock(), UlidSource()

    async def relay() -> None:
        relay = Relay(stores.outbox, bus, clock, ids, batch_entries=7, chunk_entries=10)
        done = False
        while not done:
            outcome = await relay.run_once()
            done = outcome.leased and not outcome.more and not outcome.published and not outcome.waiting
            await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(relay(), relay())


async def test_committed_events_are_published_once_in_order_per_did(stores: Stores, bus: NatsEventBus):
    asset = an_asset(1, ALICE)
    await stores.media.add(asset)
    await stores.media.claim(asset.asset_id, "0" * 64)
    await asyncio.gather(
        commit(stores, ALICE, range(RECORDS)),
        commit(stores, BOB, range(1000, 1000 + RECORDS)),
        stores.media.finalize(asset.asset_id, its_event(asset, 5000)),
        publish_everything(stores, bus),
    )
    await publish_everything(stores, bus)
    log = [entry.event.event_id for entry in await stores.outbox.read(0, 1000, "cdv.records.")]
    held = [event_id for _, event_id in await ids_of(bus)]
    assert len(held) == 2 * RECORDS
    # Events of different DIDs may be interleaved in another order than in the log.
    for start in (0, 1000):
        of_did = {f"{number:026d}" for number in range(start, start + RECORDS)}
        assert [event_id for event_id in held if event_id in of_did] == [
            event_id for event_id in log if event_id in of_did
        ]
    assert [event_id for _, event_id in await ids_of(bus, "RA_MEDIA")] == [f"{5000:026d}"]
    assert (await stores.outbox.backlog()).count == 0
    stream_sequences = {
        entry.event.event_id: entry.stream_sequence for entry in await stores.outbox.read(0, 1000, "cdv.records.")
    }
    assert stream_sequences == {event_id: sequence for sequence, event_id in await ids_of(bus)}


@pytest.mark.parametrize("how", ["purged", "deleted"])
@pytest.mark.parametrize("age", [timedelta(), timedelta(days=30)], ids=["new events", "old events"])
async def test_events_lost_from_the_stream_are_republished(
    stores: Stores, bus: NatsEventBus, nats_url: str, age: timedelta, how: str
):
    await commit(stores, ALICE, range(RECORDS), age)
    await publish_everything(stores, bus)
    async with operator(nats_url) as jetstream:
        await (jetstream.purge_stream if how == "purged" else jetstream.delete_stream)("RA_RECORDS")
    await commit(stores, ALICE, range(RECORDS, RECORDS + 10))
    await publish_everything(stores, bus)
    assert [event_id for _, event_id in await ids_of(bus)] == [f"{number:026d}" for number in range(RECORDS + 10)]
