"""Finalize on a real object store that is killed between any two of its steps."""

import hashlib
from pathlib import Path
from typing import Any

import anyio
import pytest

from cdv_adapters.container import wire
from cdv_adapters.settings import Settings
from cdv_core.domain.limits import SWEEP_GRACE
from cdv_core.domain.media import AssetState
from cdv_core.errors import Unavailable
from cdv_core.use_cases.media import Media, MediaPolicy
from conformance.ports.blob_subject import SystemClock
from tests.adapters.s3_stores import DEADLINE_SECONDS, STAGING, open_store, request, stage
from tests.fakes.clock import FakeClock
from tests.fakes.ids import FakeIdSource
from tests.fakes.media import FakeMediaStore
from tests.servers import Bucket, S3Server

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 1000
HASH = hashlib.sha256(PNG).hexdigest()
POLICY = MediaPolicy("test", 10_000, ("image/png",))


class KilledAround:
    """A blob store whose server is killed just before or after the first call of one method."""

    def __init__(self, inner: Any, server: S3Server, when: str, method: str) -> None:
        self._inner, self._server, self._when, self._method = inner, server, when, method

    def __getattr__(self, name: str) -> Any:
        if name != self._method:
            return getattr(self._inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self._method = ""
            if self._when == "before":
                self._server.kill()
            answer = await getattr(self._inner, name)(*args, **kwargs)
            if self._when == "after":
                self._server.kill()
            return answer

        return call


def test_the_copy_timeout_suffices_for_the_largest_uploadable_object(tmp_path: Path):
    largest = 2 * 1024**3
    overrides = {"s3_endpoint": "https://s3.example.com", "s3_bucket": "media", "max_media_size": largest}
    store = wire(Settings.embedded(tmp_path).model_copy(update=overrides)).blobs()
    store.close()
    mb_per_second = 5  # slower than any healthy store
    assert store._time_limits.copy_seconds > 3 * largest / (mb_per_second * 1e6)  # copied, read back, copied again


async def test_deleting_a_staged_object_also_deletes_leftover_copies_of_a_crash(s3_bucket: Bucket):
    with open_store(s3_bucket.endpoint, s3_bucket) as store:
        for key in (STAGING, f"{STAGING}.left", f"{STAGING}.behind", f"{STAGING[:-1]}2"):
            await stage(store, PNG, key)
        await store.delete(STAGING)
        for key in (STAGING, f"{STAGING}.left", f"{STAGING}.behind"):
            assert await store.inspect(key, size_bytes=len(PNG)) is None
        assert await store.inspect(f"{STAGING[:-1]}2", size_bytes=len(PNG)) is not None


@pytest.mark.parametrize(
    ("when", "method", "finalized_at_once"),
    [
        ("before", "inspect", False),
        ("after", "inspect", False),  # the hash is claimed, but nothing is copied
        ("after", "promote", True),  # the rest is done by the database
    ],
)
async def test_finalize_is_atomic_whenever_the_store_is_killed(
    when: str, method: str, finalized_at_once: bool, own_s3_server: S3Server
):
    bucket = own_s3_server.create_bucket()
    assets, clock, ids = FakeMediaStore(), FakeClock(SystemClock().now()), FakeIdSource()
    with open_store(bucket.endpoint, bucket) as blobs:
        media = Media(assets, KilledAround(blobs, own_s3_server, when, method), clock, ids, POLICY)
        upload = await media.init_upload(did="did:plc:abc", mime_type="image/png", size=len(PNG))
        assert request("PUT", upload.url, PNG).status == 200

        async def finalize() -> AssetState:
            return (await media.finalize(asset_id=upload.asset.asset_id, sha256=HASH)).state

        with anyio.fail_after(DEADLINE_SECONDS):
            if not finalized_at_once:
                with pytest.raises(Unavailable):
                    await finalize()
                assert assets.assets[upload.asset.asset_id].state is AssetState.PENDING
                assert len(assets.outbox.entries) == 0
                own_s3_server.start()
            assert await finalize() is AssetState.FINALIZED
        assert len(assets.outbox.entries) == 1

        if finalized_at_once:
            own_s3_server.start()
        assert request("GET", await media.content_url(upload.asset.asset_id)).data == PNG


async def test_a_sweep_interrupted_by_a_store_outage_is_resumed(own_s3_server: S3Server):
    bucket = own_s3_server.create_bucket()
    assets, clock, ids = FakeMediaStore(), FakeClock(SystemClock().now()), FakeIdSource()
    with open_store(bucket.endpoint, bucket) as blobs:
        media = Media(assets, KilledAround(blobs, own_s3_server, "after", "delete"), clock, ids, POLICY)
        upload = await media.init_upload(did="did:plc:abc", mime_type="image/png", size=len(PNG))
        assert request("PUT", upload.url, PNG).status == 200
        await assets.claim(upload.asset.asset_id, HASH)  # so that the final object may exist too
        clock.moment = upload.asset.expires_at + SWEEP_GRACE * 2

        with anyio.fail_after(DEADLINE_SECONDS):
            with pytest.raises(Unavailable):
                await media.sweep()
            assert upload.asset.asset_id in assets.assets
            own_s3_server.start()
            assert await media.sweep() == 1

        assert assets.assets == {}
        assert await blobs.inspect(upload.asset.staging_key, size_bytes=len(PNG)) is None
