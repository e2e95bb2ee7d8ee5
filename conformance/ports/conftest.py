"""Fixtures that open our own databases. `open_stores` runs a test on each of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cdv_adapters.database.postgres import PostgresDatabase, PostgresOptions
from cdv_adapters.database.postgres_migration import migrate
from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.media.postgres import PostgresMediaStore
from cdv_adapters.media.sqlite import SqliteMediaStore
from cdv_adapters.outbox.postgres import PostgresOutbox
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_adapters.records.postgres import PostgresRecordStore
from cdv_adapters.records.sqlite import SqliteRecordStore
from cdv_adapters.visibility.postgres import PostgresOwnerOnlyStore
from cdv_adapters.visibility.sqlite import SqliteOwnerOnlyStore
from cdv_core.errors import Unavailable
from conformance.ports.stores import OpenStores, Stores
from tests.fakes.media import FakeMediaStore
from tests.fakes.outbox import FakeOutbox
from tests.fakes.records import FakeRecordStore
from tests.fakes.visibility import FakeOwnerOnlyStore
from tests.servers import FaultProxy, PostgresServer

SHORT_TIMEOUTS = PostgresOptions(acquire_seconds=0.2)


@pytest.fixture
def open_fake() -> OpenStores:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Stores]:
        outbox = FakeOutbox()
        records, media, owner_only = FakeRecordStore(outbox), FakeMediaStore(outbox), FakeOwnerOnlyStore()

        def away(gone: bool) -> None:
            error = Unavailable("database") if gone else None
            records.error = media.error = outbox.error = owner_only.error = error

        yield Stores(records, media, outbox, owner_only, away=away)

    return opened


@pytest.fixture
def open_sqlite(tmp_path: Path) -> OpenStores:
    numbers = count()

    @asynccontextmanager
    async def opened() -> AsyncIterator[Stores]:
        file = tmp_path / str(next(numbers)) / "vault.sqlite3"

        @asynccontextmanager
        async def again() -> AsyncIterator[Stores]:
            async with SqliteDatabase(file) as database:
                records, media = SqliteRecordStore(database), SqliteMediaStore(database)
                outbox, owner_only = SqliteOutbox(database), SqliteOwnerOnlyStore(database)
                yield Stores(records, media, outbox, owner_only, again=again)

        async with again() as stores:
            yield stores

    return opened


@pytest.fixture(scope="session")
def migrated_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of an empty, migrated database on the run's Postgres, used as a template."""
    dsn = postgres_server.create_database()
    asyncio.run(migrate(dsn))  # not anyio.run, which refuses to run while an async fixture of the session is open
    yield urlsplit(dsn).path.removeprefix("/")
    postgres_server.drop_database(dsn)


@pytest.fixture
def open_postgres(
    request: pytest.FixtureRequest, postgres_server: PostgresServer, migrated_database: str
) -> OpenStores:
    @asynccontextmanager
    async def at(dsn: str, away: Callable[[bool], None] | None = None) -> AsyncIterator[Stores]:
        async with PostgresDatabase(dsn, options=SHORT_TIMEOUTS if away else PostgresOptions()) as database:
            records, media = PostgresRecordStore(database), PostgresMediaStore(database)
            outbox, owner_only = PostgresOutbox(database), PostgresOwnerOnlyStore(database)
            yield Stores(records, media, outbox, owner_only, again=lambda: at(dsn), away=away)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Stores]:
        dsn = postgres_server.create_database(template=migrated_database)
        with ExitStack() as exits:
            if "away" in request.fixturenames:  # tests that need no outage are faster without the proxy
                proxy = exits.enter_context(FaultProxy(dsn))
                stores = at(proxy.url, lambda gone: proxy.cut() if gone else proxy.heal())
            else:
                stores = at(dsn)
            async with stores as opened:
                yield opened
        postgres_server.drop_database(dsn)

    return opened


@pytest.fixture(params=["open_fake", "open_sqlite", "open_postgres"])
def open_stores(request: pytest.FixtureRequest) -> OpenStores:
    opened: OpenStores = request.getfixturevalue(request.param)
    return opened
