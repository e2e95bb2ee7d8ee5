"""A state machine for media stores: any sequence of operations, compared with an in-memory model."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, invariant, rule

from cdv_core.domain.events import Event
from cdv_core.domain.identifiers import AssetId
from cdv_core.domain.media import Asset, AssetState
from cdv_core.errors import IdTaken
from conformance.ports.stores import (
    ALICE,
    BOB,
    CAROL,
    OpenStores,
    StoresMachine,
    an_asset,
    its_event,
    later,
    op_log,
    ulid,
)

DIDS = st.sampled_from([ALICE, BOB, CAROL])
NUMBERS = st.integers(0, 12)
MOMENTS = st.integers(-2, 12).map(later)
CHECKSUMS = st.sampled_from(["0" * 64, "f" * 64])


class MediaModel:
    """The model: what a media store must hold."""

    def __init__(self) -> None:
        self.assets: dict[AssetId, Asset] = {}
        self.swept_ids: set[AssetId] = set()
        self.op_log: list[Event] = []

    def add(self, asset: Asset) -> None:
        if asset.asset_id in self.assets:
            raise IdTaken
        self.assets[asset.asset_id] = asset

    def claim(self, asset_id: AssetId, checksum: str) -> Asset | None:
        asset = self.assets.get(asset_id)
        if asset and asset.state is AssetState.PENDING and not asset.checksum:
            self.assets[asset_id] = replace(asset, checksum=checksum)
        return self.assets.get(asset_id)

    def finalize(self, asset_id: AssetId, event: Event) -> Asset | None:
        asset = self.assets.get(asset_id)
        if asset and asset.state is AssetState.PENDING and asset.checksum:
            if event.event_id in {logged.event_id for logged in self.op_log}:
                raise IdTaken
            self.op_log.append(event)
            self.assets[asset_id] = replace(asset, state=AssetState.FINALIZED)
        return self.assets.get(asset_id)

    def expire(self, before: datetime, limit: int) -> list[Asset]:
        overdue = [it for it in self.assets.values() if it.asset_id not in self.swept_ids and it.expires_at < before]
        ids = [it.asset_id for it in sorted(overdue, key=lambda it: (it.expires_at, it.asset_id))][:limit]
        for asset_id in ids:
            if self.assets[asset_id].state is AssetState.PENDING:
                self.assets[asset_id] = replace(self.assets[asset_id], state=AssetState.EXPIRED)
        return [self.assets[asset_id] for asset_id in ids]

    def mark_swept(self, asset_ids: list[AssetId]) -> None:
        for asset_id in set(asset_ids) & set(self.assets):
            if self.assets[asset_id].state is AssetState.EXPIRED:
                del self.assets[asset_id]
            elif self.assets[asset_id].state is AssetState.FINALIZED:
                self.swept_ids.add(asset_id)


class MediaStoreMachine(StoresMachine):
    assets = Bundle("assets")

    def __init__(self) -> None:
        super().__init__()
        self.model = MediaModel()

    # Numbers and event ids come from small ranges, so that some are already taken.
    @rule(
        target=assets,
        number=NUMBERS,
        did=DIDS,
        expires_at=MOMENTS,
        filename=st.sampled_from([None, "a.png", "\u00fc \U0001f408.png"]),
        announced=st.none() | CHECKSUMS,
    )
    def add(self, number, did, expires_at, filename, announced):
        asset = an_asset(number, did, expires_at=expires_at, filename=filename, announced_checksum=announced)
        self.check(lambda stores: stores.media.add(asset), lambda: self.model.add(asset))
        return self.model.assets[asset.asset_id]

    @rule(asset_id=assets.map(lambda asset: asset.asset_id) | NUMBERS.map(ulid).map(AssetId))
    def find(self, asset_id):
        self.check(lambda stores: stores.media.find(asset_id), lambda: self.model.assets.get(asset_id))

    @rule(asset=assets, checksum=CHECKSUMS)
    def claim(self, asset, checksum):
        self.check(
            lambda stores: stores.media.claim(asset.asset_id, checksum),
            lambda: self.model.claim(asset.asset_id, checksum),
        )

    @rule(asset=assets, number=st.integers(0, 60))
    def finalize(self, asset, number):
        event = its_event(asset, number)
        self.check(
            lambda stores: stores.media.finalize(asset.asset_id, event),
            lambda: self.model.finalize(asset.asset_id, event),
        )

    @rule(before=MOMENTS, limit=st.integers(1, 4))
    def expire(self, before, limit):
        self.check(lambda stores: stores.media.expire(before, limit), lambda: self.model.expire(before, limit))

    @rule(asset_ids=st.lists(assets.map(lambda asset: asset.asset_id), max_size=3))
    def mark_swept(self, asset_ids):
        self.check(lambda stores: stores.media.mark_swept(asset_ids), lambda: self.model.mark_swept(asset_ids))

    @invariant()
    def the_op_log_holds_each_finalisation_once_in_order(self):
        self.check(op_log, lambda: self.model.op_log)


def media_machine(*opened_by: OpenStores) -> type[MediaStoreMachine]:
    """Return a state machine for these databases, to be passed to `run_state_machine_as_test`."""
    return type("MediaStoreMachine", (MediaStoreMachine,), {"opened_by": opened_by})
