"""The contract of media stores: a state machine, and tests of concurrent operations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import count

import pytest
from hypothesis.stateful import run_state_machine_as_test

from cdv_core.domain.identifiers import Did
from cdv_core.domain.media import Asset, AssetState
from cdv_core.errors import IdTaken
from conformance.ports.media_machine import media_machine
from conformance.ports.stores import (
    ALICE,
    BOB,
    BOUNDED,
    START,
    DatabaseContract,
    OpenStores,
    Stores,
    a_record,
    an_asset,
    its_event,
    op_log,
    ulid,
    unavailable_until_back,
)

CHECKSUM = "c" * 64
PAST = START + timedelta(hours=1)  # every asset of these tests has expired by then


async def claimed(stores: Stores, number: int = 1, did: Did = ALICE) -> Asset:
    """Add pending asset `number` and claim it; return it."""
    asset = an_asset(number, did)
    await stores.media.add(asset)
    claimed = await stores.media.claim(asset.asset_id, CHECKSUM)
    assert claimed is not None
    return claimed


class MediaStoreContract(DatabaseContract):
    """To use it, inherit and provide the fixture `open_stores`."""

    def test_any_sequence_of_operations_matches_the_model(self, open_stores: OpenStores):
        run_state_machine_as_test(media_machine(open_stores), settings=BOUNDED)

    async def test_an_added_asset_is_found_unchanged(self, stores: Stores):
        filename = "\U0001f408 \u00fc e\u0301'\"; DROP TABLE assets; --.png"
        asset = an_asset(1, expires_at=datetime.max.replace(tzinfo=START.tzinfo), filename=filename)

        await stores.media.add(asset)

        assert await stores.media.find(asset.asset_id) == asset

    async def test_one_of_several_concurrent_claims_wins(self, nodes: Sequence[Stores]):
        stores, _ = nodes
        asset = an_asset(1)
        await stores.media.add(asset)

        results = await asyncio.gather(*(nodes[n % 2].media.claim(asset.asset_id, f"{n:064x}") for n in range(24)))

        assert {None if asset is None else asset.checksum for asset in results} == {results[0] and results[0].checksum}
        assert await stores.media.find(asset.asset_id) == results[0]

    async def test_24_concurrent_finalisations_return_one_result_and_write_one_event(self, nodes: Sequence[Stores]):
        stores, _ = nodes
        asset = await claimed(stores)
        events = [its_event(asset, 100 + number) for number in range(24)]

        results = await asyncio.gather(
            *(nodes[n % 2].media.finalize(asset.asset_id, event) for n, event in enumerate(events))
        )

        assert {asset and asset.state for asset in results} == {AssetState.FINALIZED}
        assert results == [results[0]] * 24
        (event,) = await op_log(stores)
        assert event in events

    async def test_an_asset_is_either_finalised_or_expired_when_both_race(self, nodes: Sequence[Stores]):
        stores, other = nodes
        assets = [await claimed(stores, number) for number in range(40)]
        finalising = (stores.media.finalize(asset.asset_id, its_event(asset)) for asset in assets)
        expiring = (other.media.expire(PAST, 7) for _ in range(3))

        results = await asyncio.gather(*finalising, *expiring)

        given = [it.asset_id for it in results[:40] if isinstance(it, Asset) and it.state is AssetState.FINALIZED]
        found = [await stores.media.find(asset.asset_id) for asset in assets]
        assert [asset.asset_id for asset in found if asset and asset.state is AssetState.FINALIZED] == given
        assert sorted(event.event_id for event in await op_log(stores)) == sorted(given)
        assert {asset.state for asset in found if asset} <= {AssetState.FINALIZED, AssetState.EXPIRED}
        assert None not in found

    async def test_an_expired_asset_cannot_be_claimed_or_finalised(self, stores: Stores):
        asset = await claimed(stores)
        unclaimed = an_asset(2)
        await stores.media.add(unclaimed)

        expired = await stores.media.expire(PAST, 10)

        assert [(asset.asset_id, asset.state) for asset in expired] == [
            (asset.asset_id, AssetState.EXPIRED),
            (unclaimed.asset_id, AssetState.EXPIRED),
        ]
        assert await stores.media.finalize(asset.asset_id, its_event(asset)) == expired[0]
        assert await stores.media.claim(unclaimed.asset_id, CHECKSUM) == expired[1]
        assert await op_log(stores) == []

    async def test_concurrent_sweeps_delete_expired_assets_and_keep_finalised_ones(self, nodes: Sequence[Stores]):
        stores, _ = nodes
        for number in range(30):
            asset = await claimed(stores, number)
            if number % 2:
                await stores.media.finalize(asset.asset_id, its_event(asset))

        async def sweep(node: Stores) -> None:
            for _ in range(30):
                batch = await node.media.expire(PAST, 4)
                await node.media.mark_swept([asset.asset_id for asset in batch])

        await asyncio.gather(*(sweep(nodes[number % 2]) for number in range(4)))

        assert await stores.media.expire(PAST, 4) == []
        found = [await stores.media.find(an_asset(number).asset_id) for number in range(30)]
        assert [asset and asset.state for asset in found] == [None, AssetState.FINALIZED] * 15

    async def test_40_concurrent_first_uploads_of_new_creators_are_all_stored(self, nodes: Sequence[Stores]):
        stores, _ = nodes
        assets = [an_asset(number, Did(f"did:plc:{number // 2}")) for number in range(40)]

        await asyncio.gather(*(nodes[number % 2].media.add(asset) for number, asset in enumerate(assets)))

        assert [await stores.media.find(asset.asset_id) for asset in assets] == assets

    async def test_acknowledged_writes_are_visible_to_other_instances_and_survive_their_writer(
        self, stores: Stores, again: OpenStores
    ):
        async with again() as writer:
            asset, pending = await claimed(writer), an_asset(2, BOB)
            finalized = await writer.media.finalize(asset.asset_id, its_event(asset))
            await writer.media.add(pending)
            assert await stores.media.find(asset.asset_id) == finalized != asset
            assert await stores.media.find(pending.asset_id) == pending
            assert await op_log(stores) == [its_event(asset)]
        async with again() as other:
            assert await other.media.find(asset.asset_id) == finalized
            assert await other.media.find(pending.asset_id) == pending
            assert await op_log(other) == [its_event(asset)]

    async def test_every_call_raises_unavailable_while_the_server_is_down(
        self, stores: Stores, away: Callable[[bool], None]
    ):
        asset = await claimed(stores, 0)
        numbers = count(1)

        await unavailable_until_back(
            away,
            lambda: stores.media.add(an_asset(next(numbers))),
            lambda: stores.media.find(asset.asset_id),
            lambda: stores.media.claim(asset.asset_id, CHECKSUM),
            lambda: stores.media.finalize(asset.asset_id, its_event(asset)),
            lambda: stores.media.expire(START, 10),
            lambda: stores.media.mark_swept([asset.asset_id]),
        )

    async def test_a_finalisation_with_a_duplicate_event_id_changes_nothing(self, stores: Stores):
        first, second = await claimed(stores, 1), await claimed(stores, 2, BOB)
        await stores.media.finalize(first.asset_id, its_event(first))
        with pytest.raises(IdTaken):
            await stores.media.finalize(second.asset_id, its_event(second, 1))

        assert await stores.media.find(second.asset_id) == second

        finalized = await stores.media.finalize(second.asset_id, its_event(second))
        assert finalized is not None
        assert finalized.state is AssetState.FINALIZED

    async def test_records_and_media_of_one_creator_share_one_commit_order(self, stores: Stores):
        for number in range(10):
            if number % 2:
                record = a_record(number)
                await stores.records.create(record, its_event(record))
            else:
                asset = await claimed(stores, number)
                await stores.media.finalize(asset.asset_id, its_event(asset))

        assert [event.event_id for event in await op_log(stores)] == [ulid(number) for number in range(10)]
