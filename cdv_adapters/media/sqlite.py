"""Media assets in the vault's SQLite database."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Any

from cdv_adapters.database.sqlite import SqliteDatabase, append_op_log, ensure_account, from_micros, to_micros
from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import AssetId, Did
from cdv_core.domain.media import Asset, AssetState
from cdv_core.ports.media import MediaStore

_SELECT = (
    "SELECT asset_id, did, mime_type, size_bytes, created_at, expires_at, filename, announced_checksum, checksum, state"
    " FROM assets"
)


class SqliteMediaStore(MediaStore):
    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def add(self, asset: Asset) -> None:
        def work(connection: sqlite3.Connection) -> None:
            ensure_account(connection, asset.did, asset.created_at)
            connection.execute("INSERT INTO assets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)", _row(asset))

        await self._database.write(work)

    async def find(self, asset_id: AssetId) -> Asset | None:
        return await self._database.read(lambda connection: _find(connection, asset_id))

    async def claim(self, asset_id: AssetId, checksum: str) -> Asset | None:
        def work(connection: sqlite3.Connection) -> Asset | None:
            connection.execute(
                "UPDATE assets SET checksum = ? WHERE asset_id = ? AND checksum IS NULL AND state = 'pending'",
                (checksum, asset_id),
            )
            return _find(connection, asset_id)

        return await self._database.write(work)

    async def finalize(self, asset_id: AssetId, event: Event) -> Asset | None:
        def work(connection: sqlite3.Connection) -> Asset | None:
            finalized = connection.execute(
                "UPDATE assets SET state = 'finalized'"
                " WHERE asset_id = ? AND state = 'pending' AND checksum IS NOT NULL",
                (asset_id,),
            ).rowcount
            if finalized:
                append_op_log(connection, event)
            return _find(connection, asset_id)

        return await self._database.write(work)

    async def expire(self, before: datetime, limit: int) -> list[Asset]:
        def work(connection: sqlite3.Connection) -> list[Asset]:
            overdue = f"{_SELECT} WHERE swept = 0 AND expires_at < ? ORDER BY expires_at, asset_id LIMIT ?"
            rows = connection.execute(overdue, (to_micros(before), limit)).fetchall()
            connection.executemany(
                "UPDATE assets SET state = 'expired' WHERE asset_id = ? AND state = 'pending'",
                [(row[0],) for row in rows],
            )
            return [asset for row in rows if (asset := _find(connection, row[0])) is not None]

        return await self._database.write(work)

    async def mark_swept(self, asset_ids: list[AssetId]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            ids = [(asset_id,) for asset_id in asset_ids]
            connection.executemany("DELETE FROM assets WHERE asset_id = ? AND state = 'expired'", ids)
            connection.executemany("UPDATE assets SET swept = 1 WHERE asset_id = ? AND state = 'finalized'", ids)

        await self._database.write(work)


def _find(connection: sqlite3.Connection, asset_id: str) -> Asset | None:
    row = connection.execute(f"{_SELECT} WHERE asset_id = ?", (asset_id,)).fetchone()
    return None if row is None else _asset(row)


def _row(asset: Asset) -> tuple[object, ...]:
    return (
        asset.asset_id,
        asset.did,
        asset.mime_type,
        asset.size_bytes,
        to_micros(asset.created_at),
        to_micros(asset.expires_at),
        asset.filename,
        asset.announced_checksum,
        asset.checksum,
        asset.state.value,
    )


def _asset(row: tuple[Any, ...]) -> Asset:
    asset_id, did, mime_type, size_bytes, created_at, expires_at, filename, announced, checksum, state = row
    return Asset(
        AssetId(asset_id),
        Did(did),
        mime_type,
        size_bytes,
        from_micros(created_at),
        from_micros(expires_at),
        filename,
        announced,
        checksum,
        AssetState(state),
    )
