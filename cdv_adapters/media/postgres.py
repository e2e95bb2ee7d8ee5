"""Media assets in Postgres. Each state transition is one statement."""

# ruff: noqa: S608 - queries are built from constants, here and in cdv_adapters/database/postgres.py
from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from cdv_adapters.database.postgres import LOCK_ACCOUNT, LOG_EVENT, PostgresDatabase, event_parameters
from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import AssetId, Did
from cdv_core.domain.media import Asset, AssetState
from cdv_core.ports.media import MediaStore

_COLUMNS: Final = (
    "asset_id, did, mime_type, size_bytes, created_at, expires_at, filename, announced_checksum, checksum, state"
)

_ADD: Final = f"""
WITH account AS (
    INSERT INTO accounts (did, created_at) VALUES (%(did)s, %(created_at)s) ON CONFLICT (did) DO NOTHING
)
INSERT INTO assets ({_COLUMNS}) VALUES (
    %(asset_id)s, %(did)s, %(mime_type)s, %(size_bytes)s, %(created_at)s, %(expires_at)s, %(filename)s,
    %(announced_checksum)s, %(checksum)s, %(state)s
)"""
_FIND: Final = f"SELECT {_COLUMNS} FROM assets WHERE asset_id = %s"
# Always an update, so that RETURNING gives the latest row even if another claim is concurrent.
_CLAIM: Final = f"""
UPDATE assets SET checksum = coalesce(checksum, CASE WHEN state = 'pending' THEN %s END)
WHERE asset_id = %s RETURNING {_COLUMNS}"""
_FINALIZE: Final = f"""
WITH{LOCK_ACCOUNT},
finalized AS (
    UPDATE assets SET state = 'finalized' FROM turn
    WHERE asset_id = %(asset_id)s AND state = 'pending' AND checksum IS NOT NULL
    RETURNING {_COLUMNS}
),
logged AS ({LOG_EVENT}finalized)
SELECT {_COLUMNS} FROM finalized"""
# SKIP LOCKED: rows that another replica is expiring, or that are being finalized, are left to the next call.
_EXPIRE: Final = f"""
WITH due AS (
    SELECT asset_id FROM assets WHERE NOT swept AND expires_at < least(%s, now()) ORDER BY expires_at, asset_id LIMIT %s
    FOR UPDATE SKIP LOCKED
),
expired AS (
    UPDATE assets SET state = 'expired' WHERE asset_id IN (SELECT asset_id FROM due) AND state = 'pending'
    RETURNING {_COLUMNS}
)
SELECT {_COLUMNS} FROM expired
UNION ALL
SELECT {_COLUMNS} FROM assets WHERE asset_id IN (SELECT asset_id FROM due) AND state <> 'pending'
ORDER BY expires_at, asset_id"""
_SWEPT: Final = """
WITH forgotten AS (DELETE FROM assets WHERE asset_id = ANY (%(asset_ids)s) AND state = 'expired')
UPDATE assets SET swept = true WHERE asset_id = ANY (%(asset_ids)s) AND state = 'finalized'"""


class PostgresMediaStore(MediaStore):
    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def add(self, asset: Asset) -> None:
        await self._database.run(_ADD, {name: getattr(asset, name) for name in _COLUMNS.split(", ")})

    async def find(self, asset_id: AssetId) -> Asset | None:
        return _first(await self._database.rows(_FIND, (asset_id,)))

    async def claim(self, asset_id: AssetId, checksum: str) -> Asset | None:
        return _first(await self._database.rows(_CLAIM, (checksum, asset_id)))

    async def finalize(self, asset_id: AssetId, event: Event) -> Asset | None:
        finalized = await self._database.rows(_FINALIZE, {**event_parameters(event), "asset_id": asset_id})
        return _first(finalized) or await self.find(asset_id)

    async def expire(self, before: datetime, limit: int) -> list[Asset]:
        return [_asset(row) for row in await self._database.rows(_EXPIRE, (before, limit))]

    async def mark_swept(self, asset_ids: list[AssetId]) -> None:
        await self._database.run(_SWEPT, {"asset_ids": asset_ids})


def _first(rows: list[tuple[Any, ...]]) -> Asset | None:
    return _asset(rows[0]) if rows else None


def _asset(row: tuple[Any, ...]) -> Asset:
    asset = Asset(*row)
    return replace(asset, asset_id=AssetId(asset.asset_id), did=Did(asset.did), state=AssetState(asset.state))
