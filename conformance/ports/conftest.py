"""Our own databases, put to the contracts. `open_stores` is each of them in turn."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest

from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.media.sqlite import SqliteMediaStore
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_adapters.records.sqlite import SqliteRecordStore
from conformance.ports.stores import OpenStores, Stores
from tests.fakes.media import FakeMediaStore
from tests.fakes.outbox import FakeOutbox
from tests.fakes.records import FakeRecordStore


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
        async with SqliteDatabase(tmp_path / str(next(numbers)) / "vault.sqlite3") as database:
            yield Stores(SqliteRecordStore(database), SqliteMediaStore(database), SqliteOutbox(database))

    return opened


@pytest.fixture(params=["open_fake", "open_sqlite"])
def open_stores(request: pytest.FixtureRequest) -> OpenStores:
    opened: OpenStores = request.getfixturevalue(request.param)
    return opened
