"""The collections that only their owners may read, in the vault's SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_core.domain.identifiers import Nsid
from cdv_core.ports.visibility import OwnerOnlyStore


class SqliteOwnerOnlyStore(OwnerOnlyStore):
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def owner_only(self) -> frozenset[Nsid]:
        def query(connection: sqlite3.Connection) -> frozenset[Nsid]:
            return frozenset(Nsid(name) for (name,) in connection.execute("SELECT collection FROM owner_only"))

        return await self._database.read(query)

    async def note(self, owner_only: Collection[Nsid], public: Collection[Nsid]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM owner_only WHERE collection = ?", [(name,) for name in public])
            connection.executemany(
                "INSERT INTO owner_only (collection) VALUES (?) ON CONFLICT (collection) DO NOTHING",
                [(name,) for name in owner_only],
            )

        await self._database.write(work)
