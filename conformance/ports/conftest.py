"""Our own databases, put to the contracts. `open_stores` is each of them in turn."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cdv_adapters.database.postgres import PostgresDatabase, migrate
from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.media.postgres import PostgresMediaStore
from cdv_adapters.media.sqlite import SqliteMediaStore
from cdv_adapters.outbox.postgres import PostgresOutbox
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_adapters.records.postgres import PostgresRecordStore
from cdv_adapters.records.sqlite import SqliteRecordStore
from conformance.ports.stores import OpenStores, Stores
from tests.fakes.media import FakeMediaStore
from tests.fakes.outbox import FakeOutbox
from tests.fakes.records import FakeRecordStore
from tests.servers import PostgresServer


@pytest.fixture
def open_fake() -> OpenStores:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Stores]:
        outbox = FakeOutbox()
        yield Stores(FakeRecordStore(outbox), FakeMediaStore(outbox), outbox)

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
                stores = SqliteRecordStore(database), SqliteMediaStore(database), SqliteOutbox(database)
                yield Stores(*stores, again=again)

        async with again() as stores:
            yield stores

    return opened


@pytest.fixture(scope="session")
def migrated_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of an empty vault's database on the run's Postgres, to be copied."""
    dsn = postgres_server.create_database()
    asyncio.run(migrate(dsn))  # not anyio's: that refuses while an async fixture of the session is open
    yield urlsplit(dsn).path.removeprefix("/")
    postgres_server.drop_database(dsn)


@pytest.fixture
def open_postgres(postgres_server: PostgresServer, migrated_database: str) -> OpenStores:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Stores]:
        dsn = postgres_server.create_database(template=migrated_database)

        @asynccontextmanager
        async def again() -> AsyncIterator[Stores]:
            async with PostgresDatabase(dsn) as database:
                stores = PostgresRecordStore(database), PostgresMediaStore(database), PostgresOutbox(database)
                yield Stores(*stores, again=again)

        async with again() as stores:
            yield stores
        postgres_server.drop_database(dsn)

    return opened


@pytest.fixture(params=["open_fake", "open_sqlite", "open_postgres"])
def open_stores(request: pytest.FixtureRequest) -> OpenStores:
    opened: OpenStores = request.getfixturevalue(request.param)
    return opened
