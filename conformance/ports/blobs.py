"""The contract of blob stores: single cases, and the state machine of blobs_machine.py.

A store is tested through a `Subject`, which knows how to use its URLs: by plain HTTP, or through the store itself if
our service serves the URLs.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import pytest
from hypothesis.stateful import run_state_machine_as_test

from cdv_core.domain.media import content_disposition
from cdv_core.errors import BlobUrlRefused, MediaSizeMismatch
from conformance.ports.blob_subject import (
    DOWNLOAD_LIFE,
    ENV,
    UPLOAD_LIFE,
    Download,
    OpenSubject,
    SettableClock,
    Subject,
    Uploads,
    asset_named,
)
from conformance.ports.blobs_machine import BOUNDED, blob_store_machine


class BlobStoreContract:
    """To use it, inherit and provide the fixture `subject`: a fresh, empty store."""

    @pytest.fixture
    def open_subject(self, subject: Subject) -> OpenSubject:
        """How the state machine opens a store in its own event loop; override it if a store is bound to one loop."""

        @asynccontextmanager
        async def opened() -> AsyncIterator[Subject]:
            yield subject

        return opened

    def test_any_sequence_of_operations_matches_the_model(self, open_subject: OpenSubject):
        run_state_machine_as_test(blob_store_machine(open_subject), settings=BOUNDED)

    @pytest.fixture
    def uploads(self, subject: Subject) -> Uploads:
        return Uploads(subject)

    async def test_inspect_returns_the_size_hash_and_head_of_an_upload(self, uploads: Uploads):
        data = bytes(range(256)) * 1000
        asset = asset_named(1, len(data))
        await uploads.put(asset, data)

        blob = await uploads.inspected(asset)

        assert (blob.size_bytes, blob.sha256, blob.head) == (len(data), hashlib.sha256(data).hexdigest(), data[:64])

    async def test_inspect_returns_none_before_an_upload(self, uploads: Uploads):
        asset = asset_named(1, 5)
        await uploads.url(asset)

        assert await uploads.inspect(asset) is None

    async def test_inspect_reports_a_size_mismatch(self, uploads: Uploads):
        asset = asset_named(1, 5)
        await uploads.put(asset, b"four")

        with pytest.raises(MediaSizeMismatch) as raised:
            await uploads.inspect(asset)

        assert (raised.value.declared_bytes, raised.value.actual_bytes) == (5, 4)

    async def test_a_promoted_object_is_served_with_its_type_and_disposition(self, uploads: Uploads):
        asset = asset_named(1, 5, filename="ein  Bild é+#?%41.png")
        await uploads.put(asset, b"bytes")
        assert await uploads.final(asset) is None

        assert await uploads.promote(asset, await uploads.inspected(asset))

        disposition = content_disposition(asset.mime_type, asset.filename)
        assert await uploads.final(asset) == Download(b"bytes", "image/png", disposition)

    async def test_a_head_of_a_promoted_object_returns_its_size(self, uploads: Uploads):
        asset = asset_named(1, 5)
        await uploads.put(asset, b"bytes")
        await uploads.promote(asset, await uploads.inspected(asset))

        assert await uploads.final_size(asset) == 5

    async def test_bytes_uploaded_after_the_inspection_are_never_promoted(self, uploads: Uploads):
        asset = asset_named(1, 5)
        await uploads.put(asset, b"proof")
        blob = await uploads.inspected(asset)
        await uploads.put(asset, b"other")

        promoted = await uploads.promote(asset, blob)

        # A store with versions may still copy the inspected version; no store may copy the other bytes.
        final = await uploads.final(asset)
        assert (final.data if final else None) == (b"proof" if promoted else None)

    async def test_a_deleted_staged_object_is_not_promoted_with_other_bytes(self, uploads: Uploads):
        asset = asset_named(1, 5)
        await uploads.put(asset, b"proof")
        blob = await uploads.inspected(asset)
        await uploads.store.delete(asset.staging_key)

        promoted = await uploads.promote(asset, blob)

        final = await uploads.final(asset)
        assert (final.data if final else None) == (b"proof" if promoted else None)

    async def test_a_used_upload_url_cannot_change_the_promoted_object(self, uploads: Uploads, subject: Subject):
        asset = asset_named(1, 5)
        url = await uploads.put(asset, b"proof")
        await uploads.promote(asset, await uploads.inspected(asset))

        await subject.put(url, b"other")

        final = await uploads.final(asset)
        assert final is not None
        assert final.data == b"proof"

    async def test_promoting_again_changes_nothing(self, uploads: Uploads):
        asset = asset_named(1, 5)
        await uploads.put(asset, b"proof")
        blob = await uploads.inspected(asset)

        assert [await uploads.promote(asset, blob) for _ in range(3)] == [True, True, True]

        final = await uploads.final(asset)
        assert final is not None
        assert final.data == b"proof"

    async def test_a_url_is_valid_until_it_expires(self, uploads: Uploads, subject: Subject):
        if not isinstance(subject.clock, SettableClock):
            pytest.skip("the clock of this store cannot be set back")
        asset = asset_named(1, 5)
        subject.clock.set_back = UPLOAD_LIFE - timedelta(minutes=1)
        nearly, subject.clock.set_back = await uploads.url(asset), UPLOAD_LIFE
        over, subject.clock.set_back = await uploads.url(asset), timedelta()
        await subject.put(nearly, b"proof")
        with pytest.raises(BlobUrlRefused):
            await subject.put(over, b"other")
        await uploads.promote(asset, await uploads.inspected(asset))

        subject.clock.set_back = DOWNLOAD_LIFE - timedelta(minutes=1)
        nearly, subject.clock.set_back = await uploads.download_url(asset), DOWNLOAD_LIFE
        over, subject.clock.set_back = await uploads.download_url(asset), timedelta()
        assert await subject.get(nearly) == await uploads.final(asset)
        with pytest.raises(BlobUrlRefused):
            await subject.get(over)

    async def test_a_modified_url_is_refused(self, uploads: Uploads, subject: Subject):
        assets = [asset_named(1, 5), asset_named(2, 5)]
        for url in forged(*[await uploads.url(asset) for asset in assets]):
            with pytest.raises(BlobUrlRefused):
                await subject.put(url, b"other")
        assert [await uploads.inspect(asset) for asset in assets] == [None, None]
        for asset in assets:
            await uploads.put(asset, b"proof")
            await uploads.promote(asset, await uploads.inspected(asset))

        for url in forged(*[await uploads.download_url(asset) for asset in assets]):
            with pytest.raises(BlobUrlRefused):
                await subject.get(url)

    async def test_an_upload_url_is_valid_for_its_key_and_for_writing_only(self, uploads: Uploads, subject: Subject):
        asset, other = asset_named(1, 5), asset_named(2, 5)
        url = await uploads.put(asset, b"proof")

        with pytest.raises(BlobUrlRefused):
            await subject.get(url)

        assert await uploads.inspect(other) is None
        assert await uploads.final(asset) is None

    async def test_a_download_url_is_valid_for_its_key_and_for_reading_only(self, uploads: Uploads, subject: Subject):
        asset, other = asset_named(1, 5), asset_named(2, 5)
        for each, data in ((asset, b"proof"), (other, b"other")):
            await uploads.put(each, data)
            await uploads.promote(each, await uploads.inspected(each))
        url = await uploads.download_url(asset)

        with pytest.raises(BlobUrlRefused):
            await subject.put(url, b"wrong")

        finals = [await subject.get(url), await uploads.final(other)]
        assert [final.data for final in finals if final] == [b"proof", b"other"]

    async def test_concurrent_promotions_all_succeed(self, uploads: Uploads):
        data = b"x" * 300_000
        asset = asset_named(1, len(data))
        await uploads.put(asset, data)
        blob = await uploads.inspected(asset)
        promoted: list[bool] = []

        async def promote() -> None:
            promoted.append(await uploads.promote(asset, blob))

        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(promote)

        assert promoted == [True] * 8
        final = await uploads.final(asset)
        assert final is not None
        assert final.data == data

    async def test_one_of_several_concurrent_uploads_is_stored_completely(self, uploads: Uploads):
        rivals = [bytes([number]) * 200_000 for number in range(6)]
        asset = asset_named(1, 200_000)

        async with anyio.create_task_group() as group:
            for rival in rivals:
                group.start_soon(uploads.put, asset, rival)

        assert (await uploads.inspected(asset)).sha256 in {hashlib.sha256(rival).hexdigest() for rival in rivals}

    async def test_deleting_is_idempotent_and_keeps_other_objects(self, uploads: Uploads):
        assets = [asset_named(1, 5), asset_named(2, 5)]
        for asset in assets:
            await uploads.put(asset, b"bytes")
            await uploads.promote(asset, await uploads.inspected(asset))

        for _ in range(2):
            await uploads.store.delete(assets[0].staging_key)
            await uploads.store.delete(assets[0].final_key(ENV))

        assert await uploads.inspect(assets[0]) is None
        assert await uploads.final(assets[0]) is None
        assert await uploads.inspect(assets[1]) is not None
        assert await uploads.final(assets[1]) is not None

    async def test_assets_with_similar_filenames_are_kept_apart(self, uploads: Uploads):
        names = ["a", "A", "a ", " a", ".a", "a.", "a+b", "a b", "a%20b", "é", "e\u0301", "x" * 255, None]
        assets = [asset_named(number, 2, filename=name) for number, name in enumerate(names)]
        for number, asset in enumerate(assets):
            await uploads.put(asset, b"%02d" % number)
            assert await uploads.promote(asset, await uploads.inspected(asset))

        finals = [await uploads.final(asset) for asset in assets]

        assert [final.data for final in finals if final] == [b"%02d" % number for number in range(len(names))]


def forged(url: str, other: str) -> list[str]:
    """Return forgeries of two valid URLs: with an altered end, or with the start of one and the end of the other."""
    different = [position for position, (one, two) in enumerate(zip(url, other, strict=False)) if one != two]
    # The first splice combines the key of one URL with the signature of the other.
    positions = sorted({*different[1::16], *different[1:][-1:]})
    last = "x" if url[-1] != "x" else "y"
    return [url[:-1] + last, url[:-1], url + last, *(url[:position] + other[position:] for position in positions)]
