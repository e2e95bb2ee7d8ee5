"""Where media assets are accounted for. The bytes are the blob store's (cdv_core/ports/blobs.py)."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import AssetId
from cdv_core.domain.media import Asset


class MediaStore(Protocol):
    """Keeps assets and the op-log entries of their finalisation together.

    pending → finalized, or → expired and then forgotten. Atomic and durable like RecordStore, and in the same op-log
    order per DID. All methods raise Unavailable when the store cannot be reached.
    """

    async def add(self, asset: Asset) -> None:
        """Keep a new pending asset, and make its account if this is the DID's first write.

        Raises: IdTaken: its id is not new.
        """
        ...

    async def find(self, asset_id: AssetId) -> Asset | None:
        """Return the asset in whatever state, None if unknown or forgotten."""
        ...

    async def claim(self, asset_id: AssetId, checksum: str) -> Asset | None:
        """Fix `checksum` as the only one this asset can ever be finalised with, if it has none yet; return the asset.

        The caller sees by the returned asset whether its checksum won. This decides between two finalisations of
        different bytes before either copies them. None if unknown; expired assets are returned unchanged.
        """
        ...

    async def finalize(self, asset_id: AssetId, event: Event) -> Asset | None:
        """Make a claimed pending asset permanent, with its op-log entry; return it as it is then.

        Finalising a finalised asset changes nothing and adds no entry. None if unknown; expired and unclaimed assets
        are returned unchanged.
        """
        ...

    async def expire(self, before: datetime, limit: int) -> list[Asset]:
        """Return up to `limit` assets not yet `swept` whose `expires_at` is before `before`, the oldest first.

        Those that were pending are expired from then on and can no longer be finalised. Assets with one `expires_at`
        come in the order of their ids. Repeated calls return the same assets until they are `swept`; concurrent
        callers may get the same ones.
        """
        ...

    async def mark_swept(self, asset_ids: list[AssetId]) -> None:
        """Note that the staging objects are gone: expired assets are forgotten, finalised ones never come up again.

        Pending and unknown assets are passed over.
        """
        ...
