"""An in-memory store of media assets, without their bytes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import AssetId
from cdv_core.domain.media import Asset, AssetState
from cdv_core.errors import CdvError, IdTaken
from cdv_core.ports.media import MediaStore
from tests.fakes.outbox import FakeOutbox


class FakeMediaStore(MediaStore):
    """`assets`: all that are not deleted. `error`, if set, is raised by every method, like a database that is down.

    `outbox` holds the op log; sharing it with a FakeRecordStore makes both one database.
    """

    def __init__(self, outbox: FakeOutbox | None = None) -> None:
        self.outbox = FakeOutbox() if outbox is None else outbox
        self.assets: dict[AssetId, Asset] = {}
        self.error: CdvError | None = None
        self._swept: set[AssetId] = set()

    async def add(self, asset: Asset) -> None:
        self._check()
        if asset.asset_id in self.assets:
            raise IdTaken
        self.assets[asset.asset_id] = asset

    async def find(self, asset_id: AssetId) -> Asset | None:
        self._check()
        return self.assets.get(asset_id)

    async def claim(self, asset_id: AssetId, checksum: str) -> Asset | None:
        self._check()
        asset = self.assets.get(asset_id)
        if asset is not None and asset.state is AssetState.PENDING and asset.checksum is None:
            self.assets[asset_id] = replace(asset, checksum=checksum)
        return self.assets.get(asset_id)

    async def finalize(self, asset_id: AssetId, event: Event) -> Asset | None:
        self._check()
        asset = self.assets.get(asset_id)
        if asset is not None and asset.state is AssetState.PENDING and asset.checksum is not None:
            self.outbox.append(event)
            self.assets[asset_id] = replace(asset, state=AssetState.FINALIZED)
        return self.assets.get(asset_id)

    async def expire(self, before: datetime, limit: int) -> list[Asset]:
        self._check()
        overdue = [
            asset for asset in self.assets.values() if asset.expires_at < before and asset.asset_id not in self._swept
        ]
        overdue.sort(key=lambda asset: (asset.expires_at, asset.asset_id))
        for asset in overdue[:limit]:
            if asset.state is AssetState.PENDING:
                self.assets[asset.asset_id] = replace(asset, state=AssetState.EXPIRED)
        return [self.assets[asset.asset_id] for asset in overdue[:limit]]

    async def mark_swept(self, asset_ids: list[AssetId]) -> None:
        self._check()
        for asset_id in asset_ids:
            asset = self.assets.get(asset_id)
            if asset is not None and asset.state is AssetState.EXPIRED:
                del self.assets[asset_id]
            elif asset is not None and asset.state is AssetState.FINALIZED:
                self._swept.add(asset_id)

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
