"""Removes a DID from Postgres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cdv_adapters.database.postgres import PostgresDatabase
from cdv_core.domain.identifiers import AssetId, Did

# Assets and op-log entries are selected by their keys: neither table has an index on the DID alone.
_REMOVE: Final = """
WITH removed_records AS (DELETE FROM records WHERE did = %(did)s),
removed_replies AS (DELETE FROM replies WHERE did = %(did)s),
removed_assets AS (DELETE FROM assets WHERE asset_id = ANY (%(asset_ids)s) AND did = %(did)s),
removed_entries AS (DELETE FROM op_log WHERE sequence = ANY (%(sequences)s) AND did = %(did)s)
DELETE FROM accounts WHERE did = %(did)s AND %(with_account)s"""


async def remove(
    database: PostgresDatabase, did: Did, asset_ids: Sequence[AssetId], sequences: Sequence[int], *, with_account: bool
) -> None:
    """Remove the DID's records and replies, the given assets and op-log entries of it, and its account.

    Atomic. `with_account` requires that nothing else of the DID is left.

    Raises: Unavailable.
    """
    await database.run(
        _REMOVE, {"did": did, "asset_ids": list(asset_ids), "sequences": list(sequences), "with_account": with_account}
    )
