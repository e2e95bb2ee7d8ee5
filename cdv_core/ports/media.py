"""The store of media assets. Their bytes are in the blob store (cdv_core/ports/blobs.py)."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import AssetId
from cdv_core.domain.media import Asset


class MediaStore(Protocol):
    """Stores assets and the op-log entries of their finalisation together.

    States: pending → finalized, or pending → expired → deleted. Atomic and durable like RecordStore, and in the same
    op-log order per DID. All methods raise Unavailable when the store cannot be reached.
    """

    async def add(self, asset: Asset) -> None:
        """Store a new pending asset, and create the DID's account on its first write.

        Raises: IdTaken: its id is in use.
        """
        ...

    async def find(self, asset_id: AssetId) -> Asset | None:
        """Return the asset in any state, None if unknown or deleted."""
        ...

    async def claim(self, asset_id: AssetId, checksum: str) -> Asset | None:
        """Set `checksum` as the only one that this asset can be finalised with, if none is set yet; return the asset.

        The returned asset's checksum tells the caller whether its own was set. This decides between two concurrent
        finalisations of different bytes before either copies them. None if unknown; expired assets are returned
        unchanged.
        """
        ...

    async def finalize(self, asset_id: AssetId, event: Event) -> Asset | None:
        """Make a claimed pending asset permanent and add its op-log entry; return the asset as it is then.

        Idempotent: a finalised asset stays unchanged, without another entry. None if unknown; expired and unclaimed
        assets are returned unchanged.
        """
        ...

    async def expire(self, before: datetime, limit: int) -> list[Asset]:
        """Return up to `limit` assets, not yet swept, whose `expires_at` is before `before`, the oldest first.

        Pending ones become expired and can no longer be finalised. Assets with equal `expires_at` are ordered by id.
        Repeated calls return the same assets until `mark_swept`; concurrent callers may get the same ones.
        """
        ...

    async def mark_swept(self, asset_ids: list[AssetId]) -> None:
        """Record that the staging objects are deleted: expired assets are deleted, finalised ones not returned again.

        Pending and unknown assets are ignored.
        """
        ...
