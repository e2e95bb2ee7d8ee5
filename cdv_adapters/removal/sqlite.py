"""Removes a DID from the vault's SQLite database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_core.domain.identifiers import AssetId, Did


async def remove(
    database: SqliteDatabase, did: Did, asset_ids: Sequence[AssetId], sequences: Sequence[int], *, with_account: bool
) -> None:
    """Remove the DID's records and replies, the given assets and op-log entries of it, and its account.

    Atomic. `with_account` requires that nothing else of the DID is left.

    Raises: Unavailable.
    """

    def work(connection: sqlite3.Connection) -> None:
        connection.executemany("DELETE FROM assets WHERE asset_id = ? AND did = ?", [(it, did) for it in asset_ids])
        connection.executemany("DELETE FROM op_log WHERE sequence = ? AND did = ?", [(it, did) for it in sequences])
        connection.execute("DELETE FROM records WHERE did = ?", (did,))
        connection.execute("DELETE FROM replies WHERE did = ?", (did,))
        if with_account:
            connection.execute("DELETE FROM accounts WHERE did = ?", (did,))

    await database.write(work)
