"""The collections that only their owners may read, in Postgres. Each operation is one statement."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from cdv_adapters.database.postgres import PostgresDatabase
from cdv_core.domain.identifiers import Nsid
from cdv_core.errors import CannotStart
from cdv_core.ports.visibility import OwnerOnlyStore

_ALL: Final = "SELECT collection FROM owner_only"
_NOTE: Final = """
WITH opened AS (DELETE FROM owner_only WHERE collection = ANY (%(public)s::text[]))
INSERT INTO owner_only (collection) SELECT unnest(%(owner_only)s::text[]) ON CONFLICT (collection) DO NOTHING"""


class PostgresOwnerOnlyStore(OwnerOnlyStore):
    """Also raises CannotStart: the role lacks privileges on the table, which is newer than the others."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def owner_only(self) -> frozenset[Nsid]:
        with _granted():
            return frozenset(Nsid(name) for (name,) in await self._database.rows(_ALL))

    async def note(self, owner_only: Collection[Nsid], public: Collection[Nsid]) -> None:
        # Sorted, so that replicas that add the same collections lock rows in the same order and cannot deadlock.
        added, removed = sorted(set(owner_only)), sorted(set(public) - set(owner_only))
        with _granted():
            await self._database.run(_NOTE, {"owner_only": added, "public": removed})


@contextmanager
def _granted() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        remedy = "as the tables' owner, GRANT SELECT, INSERT, DELETE ON owner_only to the role of CDV_DB_DSN"
        raise CannotStart("use the database", str(error), remedy) from error
