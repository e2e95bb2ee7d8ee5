"""Media uploads: initialising, finalising, content URLs and the sweep, with races and failures."""

import copy
import hashlib
import json
from datetime import timedelta
from typing import Any

import pytest

from cdv_core.domain.identifiers import Did
from cdv_core.domain.limits import DOWNLOAD_LIFE, SWEEP_GRACE, UPLOAD_LIFE
from cdv_core.domain.media import AssetState, Sha256
from cdv_core.errors import (
    AssetNotFound,
    BlobUrlRefused,
    ChecksumMismatch,
    ChecksumNotAnnounced,
    DidMismatch,
    InvalidField,
    MediaConflict,
    MediaSizeMismatch,
    MediaTooLarge,
    MediaTypeMismatch,
    MediaTypeNotAllowed,
    Unavailable,
)
from cdv_core.use_cases.media import Media, MediaPolicy
from tests.fakes.blobs import FakeBlobStore
from tests.fakes.clock import FakeClock
from tests.fakes.ids import FakeIdSource
from tests.fakes.media import FakeMediaStore

ADA, BOB = Did("did:example:ada"), Did("did:example:bob")
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 10
HASH = hashlib.sha256(PNG).hexdigest()
OTHER = b"\x89PNG\r\n\x1a\n" + b"PIXELS" * 10
OTHER_HASH = hashlib.sha256(OTHER).hexdigest()
UNKNOWN = "01KAV3XG8J0000000000000000"


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeMediaStore()
        self.blobs = FakeBlobStore(self.clock)
        policy = MediaPolicy("prod", 1000, ("image/png", "image/gif"))
        self.media = Media(self.store, self.blobs, self.clock, FakeIdSource(), policy)

    async def init(self, **changes):
        arguments: dict[str, Any] = {
            "did": ADA,
            "mime_type": "image/png",
            "size": len(PNG),
            "subject": ADA,
            "filename": "a.png",
        }
        return (await self.media.init_upload(**arguments | changes)).asset

    async def uploaded(self, data: bytes = PNG, **changes):
        asset = await self.init(**{"size": len(data)} | changes)
        self.blobs.objects[asset.staging_key] = data
        return asset

    async def finalize(self, asset, sha256=HASH, **changes):
        return await self.media.finalize(**{"asset_id": asset.asset_id, "sha256": sha256, "subject": ADA} | changes)

    @property
    def envelopes(self):
        return [json.loads(entry.event.envelope) for entry in self.store.outbox.entries.values()]


@pytest.fixture
def world() -> World:
    return World()


async def test_init_upload_stores_a_pending_asset_and_returns_an_upload_url(world):
    upload = await world.media.init_upload(did=ADA, mime_type="IMAGE/PNG", size=5, sha256="AB" * 32)
    assert upload.asset.state is AssetState.PENDING
    assert upload.asset.mime_type == "image/png"
    assert upload.asset.announced_checksum == "ab" * 32
    assert upload.asset.expires_at == world.clock.now() + UPLOAD_LIFE
    assert world.store.assets[upload.asset.asset_id] == upload.asset
    assert upload.url.startswith("/v1/blobs/upload/")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"did": "x"}, InvalidField),
        ({"size": 0}, InvalidField),
        ({"size": -1}, InvalidField),
        ({"size": 2.5}, InvalidField),
        ({"sha256": "x"}, InvalidField),
        ({"filename": "../x"}, InvalidField),
        ({"subject": BOB, "size": 1001}, DidMismatch),
        ({"size": 1001}, MediaTooLarge),
        ({"mime_type": "text/html"}, MediaTypeNotAllowed),
        ({"mime_type": "image/png; charset=x"}, MediaTypeNotAllowed),
    ],
)
async def test_an_invalid_upload_init_is_refused_and_stores_nothing(world, changes, error):
    with pytest.raises(error):
        await world.init(**changes)
    assert world.store.assets == {}


async def test_the_smallest_and_the_largest_size_are_accepted(world):
    assert (await world.init(size=1000)).size_bytes == 1000
    assert (await world.init(size=1)).size_bytes == 1


async def test_finalising_verifies_and_moves_the_object_and_emits_an_event(world):
    asset = await world.uploaded()
    final = await world.finalize(asset, sha256=HASH.upper(), correlation_id="c-1")
    assert (final.state, final.checksum) == (AssetState.FINALIZED, HASH)
    assert world.blobs.objects[f"prod/{ADA}/{asset.asset_id}/a.png"] == PNG
    [envelope] = world.envelopes
    assert envelope["correlationId"] == "c-1"
    assert envelope["payload"]["checksum"] == HASH


async def test_finalising_again_returns_the_same_asset_and_emits_no_second_event(world):
    asset = await world.uploaded()
    first = await world.finalize(asset)
    world.clock.advance(10**6)
    assert await world.finalize(asset) == first
    assert len(world.envelopes) == 1


async def test_finalising_again_with_another_hash_conflicts(world):
    asset = await world.uploaded()
    await world.finalize(asset)
    with pytest.raises(MediaConflict) as caught:
        await world.finalize(asset, OTHER_HASH)
    assert caught.value.reason == "finalized_with_another_hash"


async def test_an_asset_without_an_upload_cannot_be_finalised(world):
    asset = await world.init()
    with pytest.raises(MediaConflict) as caught:
        await world.finalize(asset)
    assert caught.value.reason == "not_uploaded"


@pytest.mark.parametrize(
    ("data", "sha256", "init", "error"),
    [
        (PNG, OTHER_HASH, {}, ChecksumMismatch),
        (PNG, HASH, {"sha256": OTHER_HASH}, ChecksumNotAnnounced),
        (PNG, HASH, {"size": len(PNG) + 1}, MediaSizeMismatch),
        (PNG, HASH, {"mime_type": "image/gif"}, MediaTypeMismatch),
    ],
)
async def test_an_object_that_differs_from_its_declaration_leaves_the_asset_pending(world, data, sha256, init, error):
    asset = await world.uploaded(data, **init)
    with pytest.raises(error):
        await world.finalize(asset, sha256)
    assert world.store.assets[asset.asset_id] == asset
    assert world.envelopes == []
    assert list(world.blobs.objects) == [asset.staging_key]


async def test_a_failed_finalisation_succeeds_after_another_upload(world):
    asset = await world.uploaded(OTHER)
    with pytest.raises(ChecksumMismatch):
        await world.finalize(asset)
    world.blobs.objects[asset.staging_key] = PNG
    assert (await world.finalize(asset)).checksum == HASH


async def test_content_without_a_known_signature_is_accepted_as_the_declared_type(world):
    asset = await world.uploaded(b"plain bytes")
    assert await world.finalize(asset, hashlib.sha256(b"plain bytes").hexdigest())


async def test_only_the_owner_may_finalise(world):
    asset = await world.uploaded()
    with pytest.raises(DidMismatch):
        await world.finalize(asset, subject=BOB)
    for unknown in (UNKNOWN, "x"):
        with pytest.raises(AssetNotFound):
            await world.media.finalize(asset_id=unknown, sha256=HASH)
    with pytest.raises(InvalidField):
        await world.media.finalize(asset_id=asset.asset_id, sha256="x")
    assert (await world.finalize(asset, subject=None)).state is AssetState.FINALIZED


async def test_an_expired_pending_asset_is_not_found(world):
    asset = await world.uploaded()
    world.clock.moment = asset.expires_at - timedelta(microseconds=1)
    assert await world.media.describe(asset.asset_id)
    world.clock.moment = asset.expires_at
    with pytest.raises(AssetNotFound):
        await world.finalize(asset)
    with pytest.raises(AssetNotFound):
        await world.media.describe(asset.asset_id)


async def test_an_upload_after_finalising_does_not_change_the_asset(world):
    asset = await world.uploaded()
    await world.finalize(asset)
    world.blobs.objects[asset.staging_key] = OTHER
    assert (await world.finalize(asset)).checksum == HASH
    assert world.blobs.objects[asset.final_key("prod")] == PNG


async def test_concurrent_finalisations_of_different_bytes_conflict_and_the_claimed_hash_can_retry(world):
    asset = await world.uploaded()

    class Racing(FakeBlobStore):
        async def promote(self, *arguments, **options):
            # Between claim and copy, the uploader replaces the bytes and finalises those.
            promote = super().promote
            world.media._blobs = world.blobs
            world.blobs.objects[asset.staging_key] = OTHER
            with pytest.raises(MediaConflict) as caught:
                await world.finalize(asset, OTHER_HASH)
            assert caught.value.reason == "claimed_by_another_hash"
            return await promote(*arguments, **options)

    racing = Racing(world.clock)
    racing.objects = world.blobs.objects
    world.media._blobs = racing
    with pytest.raises(MediaConflict) as caught:
        await world.finalize(asset)
    assert caught.value.reason == "changed_while_finalizing"
    assert asset.final_key("prod") not in world.blobs.objects
    world.blobs.objects[asset.staging_key] = PNG
    assert (await world.finalize(asset)).checksum == HASH
    assert world.blobs.objects[asset.final_key("prod")] == PNG


async def test_equal_concurrent_finalisations_emit_one_event_and_a_retry_gets_the_same_asset(world):
    asset = await world.uploaded()

    class Racing(FakeBlobStore):
        async def promote(self, *arguments, **options):
            world.media._blobs = world.blobs
            self.first = await world.finalize(asset)
            del world.blobs.objects[asset.staging_key]
            return False

    racing = Racing(world.clock)
    racing.objects = world.blobs.objects
    world.media._blobs = racing
    with pytest.raises(MediaConflict):
        await world.finalize(asset)
    assert await world.finalize(asset) == racing.first
    assert len(world.envelopes) == 1


async def test_a_finalisation_without_a_staged_object_returns_the_asset_finalised_by_another(world):
    asset = await world.uploaded()
    final = await world.finalize(asset)
    del world.blobs.objects[asset.staging_key]
    assert await world.media._make_permanent(asset, Sha256(HASH), None, None) == final


async def test_an_asset_that_expires_during_finalisation_is_not_found(world):
    asset = await world.uploaded()

    class Slow(FakeBlobStore):
        async def promote(self, *arguments, **options):
            world.clock.moment = asset.expires_at + SWEEP_GRACE * 2
            world.media._blobs = world.blobs
            await world.media.sweep()
            return True

    slow = Slow(world.clock)
    slow.objects = world.blobs.objects
    world.media._blobs = slow
    with pytest.raises(AssetNotFound):
        await world.finalize(asset)
    assert world.envelopes == []


async def test_a_pending_asset_is_visible_to_its_owner_only(world):
    asset = await world.init()
    assert await world.media.describe(asset.asset_id, viewer=ADA) == asset
    assert await world.media.describe(asset.asset_id) == asset
    with pytest.raises(AssetNotFound):
        await world.media.describe(asset.asset_id, viewer=BOB)
    with pytest.raises(AssetNotFound):
        await world.media.describe(UNKNOWN, viewer=ADA)


async def test_a_finalised_asset_is_visible_to_anyone(world):
    asset = await world.uploaded()
    final = await world.finalize(asset)
    assert await world.media.describe(asset.asset_id, viewer=BOB) == final


async def test_only_a_finalised_asset_has_a_content_url_and_the_url_expires(world):
    asset = await world.uploaded()
    with pytest.raises(AssetNotFound):
        await world.media.content_url(asset.asset_id)
    with pytest.raises(AssetNotFound):
        await world.media.content_url(UNKNOWN)
    await world.finalize(asset)
    token = (await world.media.content_url(asset.asset_id)).rpartition("/")[2]
    content = await world.blobs.open(token)
    assert (content.mime_type, content.disposition) == ("image/png", 'inline; filename="a.png"')
    world.clock.moment += DOWNLOAD_LIFE
    with pytest.raises(BlobUrlRefused):
        await world.blobs.open(token)


async def test_the_sweep_removes_expired_assets_and_staged_objects_and_keeps_finalised_ones(world):
    abandoned, kept = await world.uploaded(), await world.uploaded(filename="b.png")
    await world.finalize(kept)
    world.clock.moment = abandoned.expires_at + SWEEP_GRACE
    assert await world.media.sweep() == 0
    world.clock.advance(1)
    assert await world.media.sweep() == 2
    assert list(world.blobs.objects) == [kept.final_key("prod")]
    assert list(world.store.assets) == [kept.asset_id]
    assert await world.media.sweep() == 0


async def test_the_sweep_removes_the_copy_of_a_finalisation_that_never_committed(world):
    asset = await world.uploaded()
    await world.store.claim(asset.asset_id, HASH)
    world.blobs.objects[asset.final_key("prod")] = PNG
    world.clock.moment = asset.expires_at + SWEEP_GRACE * 2
    assert await world.media.sweep() == 1
    assert world.blobs.objects == {}


async def test_after_a_restore_to_before_a_finalisation_the_sweep_keeps_the_final_object(world):
    asset = await world.uploaded()
    before = copy.deepcopy(world.store)
    await world.finalize(asset)
    world.media._store = before
    world.clock.moment = asset.expires_at + SWEEP_GRACE * 2
    assert await world.media.sweep() == 1
    assert await before.find(asset.asset_id) is None
    assert world.blobs.objects[asset.final_key("prod")] == PNG


async def test_a_failed_sweep_is_completed_by_the_next(world):
    asset = await world.uploaded()
    world.clock.moment = asset.expires_at + SWEEP_GRACE * 2
    world.blobs.down = True
    with pytest.raises(Unavailable):
        await world.media.sweep()
    world.blobs.down = False
    assert await world.media.sweep() == 1
    assert world.store.assets == {}


@pytest.mark.parametrize("stuck", [1, 2])
async def test_an_object_that_cannot_be_removed_does_not_block_others(world, stuck):
    assets = [await world.uploaded() for _ in range(5)]
    await world.finalize(assets[4])
    world.clock.moment = assets[4].expires_at + SWEEP_GRACE * 2
    world.blobs.stuck = {asset.staging_key for asset in assets[:stuck]}
    assert await world.media.sweep() == 5 - stuck
    assert list(world.store.assets) == [asset.asset_id for asset in (*assets[:stuck], assets[4])]
    with pytest.raises(Unavailable):
        await world.media.sweep()
    world.blobs.stuck = set()
    assert await world.media.sweep() == stuck


async def test_objects_that_made_a_sweep_fail_do_not_block_others_in_the_next(world):
    assets = [await world.uploaded() for _ in range(5)]
    world.clock.moment = assets[4].expires_at + SWEEP_GRACE * 2
    world.blobs.stuck = {asset.staging_key for asset in assets[:3]}
    with pytest.raises(Unavailable):
        await world.media.sweep()
    assert await world.media.sweep() == 2
    world.blobs.stuck = set()
    assert await world.media.sweep() == 3


async def test_a_sweep_stops_after_three_objects_that_cannot_be_removed(world):
    assets = [await world.uploaded() for _ in range(5)]
    world.clock.moment = assets[4].expires_at + SWEEP_GRACE * 2
    world.blobs.stuck = {asset.staging_key for asset in assets}
    with pytest.raises(Unavailable):
        await world.media.sweep()
    assert world.blobs.refusals == 3


async def test_an_unavailable_blob_store_is_reported_as_unavailable(world):
    asset = await world.uploaded()
    world.blobs.down = True
    for call in (world.init(), world.finalize(asset)):
        with pytest.raises(Unavailable):
            await call
    world.blobs.down = False
    assert (await world.finalize(asset)).checksum == HASH
