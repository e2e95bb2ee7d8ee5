"""Opens the stores on a Postgres database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cdv_adapters.database.postgres import Password, PostgresDatabase, PostgresOptions
from cdv_adapters.media.postgres import PostgresMediaStore
from cdv_adapters.outbox.postgres import PostgresOutbox
from cdv_adapters.records.postgres import PostgresRecordStore
from cdv_adapters.visibility.postgres import PostgresOwnerOnlyStore
from conformance.ports.stores import Stores

DEFAULT = PostgresOptions()


@dataclass(frozen=True, slots=True)
class PostgresStores(Stores):
    """The stores and the pool that they use."""

    database: PostgresDatabase


@asynccontextmanager
async def open_postgres(
    dsn: str, options: PostgresOptions = DEFAULT, password: Password | None = None
) -> AsyncIterator[PostgresStores]:
    """Open the stores on a migrated database."""
    async with PostgresDatabase(dsn, options=options, password=password) as database:
        yield PostgresStores(
            PostgresRecordStore(database),
            PostgresMediaStore(database),
            PostgresOutbox(database),
            PostgresOwnerOnlyStore(database),
            database,
        )
