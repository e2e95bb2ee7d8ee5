"""What every blob store does, whatever it is made of: single cases, and a state machine that compares it with a dict.

A store is put to the test as a `Subject`, which knows how its URLs are used: by plain HTTP, or through the store
itself when our service serves it.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Protocol, TypeAlias

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from cdv_core.domain.identifiers import AssetId, Did
from cdv_core.domain.media import Asset, content_disposition, parse_filename
from cdv_core.errors import BlobUrlRefused, InvalidField, MediaSizeMismatch, MediaTooLarge
from cdv_core.ports.blobs import BlobStore, StagedBlob
from cdv_core.ports.clock import Clock
from conformance.strategies import DIDS, TEXTS

ENV = "test"
TYPES = ("image/png", "image/jpeg", "video/mp4")
BOUNDED = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
UPLOAD_LIFE, DOWNLOAD_LIFE = timedelta(minutes=15), timedelta(minutes=5)


class SystemClock:
    """Real time: a store of its own judges a URL's age by its own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class SettableClock(SystemClock):
    """Real time, but for what it is set back by: what a store signs now, it signed then."""

    def __init__(self) -> None:
        self.set_back = timedelta()

    def now(self) -> datetime:
        return super().now() - self.set_back


@dataclass(frozen=True)
class Download:
    """What a GET of a download URL gave."""

    data: bytes
    mime_type: str
    disposition: str


class Subject(Protocol):
    """A blob store, and the client's side of its URLs.

    `clock`: what the store signs its URLs by. A SettableClock, if the store can be given one: then their end is tried.
    """

    store: BlobStore
    clock: Clock

    async def put(self, url: str, data: bytes) -> None:
        """Send `data` to a URL.

        Raises: MediaTooLarge where the store bounds uploads by the declared size. BlobUrlRefused: it takes no upload at
        this URL, a 403 for example.
        """
        ...

    async def get(self, url: str) -> Download | None:
        """Fetch a URL; None if the object is gone. Raises: BlobUrlRefused: it gives nothing at this URL."""
        ...

    async def head(self, url: str) -> int:
        """Ask a download URL that was made for a HEAD; return how many bytes the object is said to have."""
        ...


OpenSubject: TypeAlias = Callable[[], AbstractAsyncContextManager[Subject]]
"""Opens a store; what earlier machines left in it does not matter."""


class Uploads:
    """Assets on their way through a store."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.store = subject.store

    async def url(self, asset: Asset, size_bytes: int | None = None) -> str:
        expires_at = self._subject.clock.now() + UPLOAD_LIFE
        size_bytes = asset.size_bytes if size_bytes is None else size_bytes
        return await self.store.upload_url(asset.staging_key, size_bytes=size_bytes, expires_at=expires_at)

    async def put(self, asset: Asset, data: bytes) -> str:
        """Upload, and return the URL that was used."""
        url = await self.url(asset, len(data))
        await self._subject.put(url, data)
        return url

    async def inspect(self, asset: Asset) -> StagedBlob | None:
        return await self.store.inspect(asset.staging_key, size_bytes=asset.size_bytes)

    async def inspected(self, asset: Asset) -> StagedBlob:
        blob = await self.inspect(asset)
        assert blob is not None
        return blob

    async def promote(self, asset: Asset, blob: StagedBlob) -> bool:
        return await self.store.promote(
            asset.staging_key,
            blob.etag,
            asset.final_key(ENV),
            mime_type=asset.mime_type,
            disposition=content_disposition(asset.mime_type, asset.filename),
        )

    async def final(self, asset: Asset) -> Download | None:
        """Download the permanent object as its asset describes it."""
        return await self._subject.get(await self.download_url(asset))

    async def final_size(self, asset: Asset) -> int:
        """Return what a HEAD says of the permanent object."""
        return await self._subject.head(await self.download_url(asset, head=True))

    async def download_url(self, asset: Asset, *, head: bool = False) -> str:
        return await self.store.download_url(
            asset.final_key(ENV),
            mime_type=asset.mime_type,
            disposition=content_disposition(asset.mime_type, asset.filename),
            expires_at=self._subject.clock.now() + DOWNLOAD_LIFE,
            head=head,
        )


def forged(url: str, other: str) -> list[str]:
    """Return what may be made of two good URLs: with another end, or beginning as the one and ending as the other."""
    different = [place for place, (one, two) in enumerate(zip(url, other, strict=False)) if one != two]
    # The first of these has what names the key from the one, and the signature from the other.
    places = sorted({*different[1::16], *different[1:][-1:]})
    last = "x" if url[-1] != "x" else "y"
    return [url[:-1] + last, url[:-1], url + last, *(url[:place] + other[place:] for place in places)]


def asset_named(
    number: int, size_bytes: int, *, filename: str | None = "a.png", did: str = "did:plc:abc", mime: str = TYPES[0]
) -> Asset:
    """Return asset `number` of a creator: two of one number are the same asset."""
    asset_id = AssetId.parse(f"01K{number:023d}")
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return Asset(asset_id, Did.parse(did), mime, size_bytes, begin, begin + timedelta(minutes=15), filename)


class BlobStoreContract:
    """Inherit, and give a `subject` fixture: a fresh, empty store."""

    @pytest.fixture
    def open_subject(self, subject: Subject) -> OpenSubject:
        """What the state machine tries, in event loops of its own: override it for a store that is bound to one."""

        @asynccontextmanager
        async def opened() -> AsyncIterator[Subject]:
            yield subject

        return opened

    def test_any_sequence_leaves_what_a_dictionary_would_hold(self, open_subject: OpenSubject):
        run_state_machine_as_test(blob_store_machine(open_subject), settings=BOUNDED)

    @pytest.fixture
    def uploads(self, subject: Subject) -> Uploads:
        return Uploads(subject)

    async def test_what_was_uploaded_is_inspected_whole(self, uploads: Uploads):
        data = bytes(range(256)) * 1000
        asset = asset_named(1, len(data))
        await uploads.put(asset, data)

        blob = await uploads.inspected(asset)

        assert (blob.size_bytes, blob.sha256, blob.head) == (len(data), hashlib.sha256(data).hexdigest(), data[:64])

    async def test_nothing_uploaded_is_none(self, uploads: Uploads):
        asset = asset_named(1, 5)
        await uploads.url(asset)

        assert await uploads.inspect(asset) is None

    async def test_another_size_than_declared_is_told(self, uploads: Uploads):
        asset = asset_named(1, 5)
        await uploads.put(asset, b"four")

        with pytest.raises(MediaSizeMismatch) as raised:
            await uploads.inspect(asset)

        assert (raised.value.declared_bytes, raised.value.actual_bytes) == (5, 4)

    async def test_a_promoted_object_is_given_out_as_its_asset_says(self, uploads: Uploads):
        asset = asset_named(1, 5, filename="ein  Bild é+#?%41.png")
        await uploads.put(asset, b"bytes")
        assert await uploads.final(asset) is None

        assert await uploads.promote(asset, await uploads.inspected(asset))

        disposition = content_disposition(asset.mime_type, asset.filename)
        assert await uploads.final(asset) == Download(b"bytes", "image/png", disposition)

    async def test_a_head_of_a_promoted_object_tells_its_size(self, uploads: Uploads):
        asset = asset_named(1, 5)
        await uploads.put(asset, b"bytes")
        await uploads.promote(asset, await uploads.inspected(asset))

        assert await uploads.final_size(asset) == 5

    async def test_bytes_uploaded_after_the_inspection_never_become_permanent(self, uploads: Uploads):
        asset = asset_named(1, 5)
        await uploads.put(asset, b"proof")
        blob = await uploads.inspected(asset)
        await uploads.put(asset, b"other")

        promoted = await uploads.promote(asset, blob)

        # A store that keeps versions may still copy what was inspected; none may copy what was not.
        final = await uploads.final(asset)
        assert (final.data if final else None) == (b"proof" if promoted else None)

    async def test_a_staged_object_that_is_gone_is_not_promoted_as_something_else(self, uploads: Uploads):
        asset = asset_named(1, 5)
        await uploads.put(asset, b"proof")
        blob = await uploads.inspected(asset)
        await uploads.store.delete(asset.staging_key)

        promoted = await uploads.promote(asset, blob)

        final = await uploads.final(asset)
        assert (final.data if final else None) == (b"proof" if promoted else None)

    async def test_the_old_upload_url_cannot_change_what_is_permanent(self, uploads: Uploads, subject: Subject):
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

    async def test_a_url_serves_until_its_end_and_no_longer(self, uploads: Uploads, subject: Subject):
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

    async def test_a_url_that_was_changed_is_refused(self, uploads: Uploads, subject: Subject):
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

    async def test_an_upload_url_is_for_its_key_and_for_writing_alone(self, uploads: Uploads, subject: Subject):
        asset, other = asset_named(1, 5), asset_named(2, 5)
        url = await uploads.put(asset, b"proof")

        with pytest.raises(BlobUrlRefused):
            await subject.get(url)

        assert await uploads.inspect(other) is None
        assert await uploads.final(asset) is None

    async def test_a_download_url_is_for_its_key_and_for_reading_alone(self, uploads: Uploads, subject: Subject):
        asset, other = asset_named(1, 5), asset_named(2, 5)
        for each, data in ((asset, b"proof"), (other, b"other")):
            await uploads.put(each, data)
            await uploads.promote(each, await uploads.inspected(each))
        url = await uploads.download_url(asset)

        with pytest.raises(BlobUrlRefused):
            await subject.put(url, b"wrong")

        finals = [await subject.get(url), await uploads.final(other)]
        assert [final.data for final in finals if final] == [b"proof", b"other"]

    async def test_many_may_promote_at_once(self, uploads: Uploads):
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

    async def test_of_uploads_at_once_one_is_there_whole(self, uploads: Uploads):
        rivals = [bytes([number]) * 200_000 for number in range(6)]
        asset = asset_named(1, 200_000)

        async with anyio.create_task_group() as group:
            for rival in rivals:
                group.start_soon(uploads.put, asset, rival)

        assert (await uploads.inspected(asset)).sha256 in {hashlib.sha256(rival).hexdigest() for rival in rivals}

    async def test_deleting_is_repeatable_and_spares_the_others(self, uploads: Uploads):
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

    async def test_names_that_look_alike_stay_apart(self, uploads: Uploads):
        names = ["a", "A", "a ", " a", ".a", "a.", "a+b", "a b", "a%20b", "é", "e\u0301", "x" * 255, None]
        assets = [asset_named(number, 2, filename=name) for number, name in enumerate(names)]
        for number, asset in enumerate(assets):
            await uploads.put(asset, b"%02d" % number)
            assert await uploads.promote(asset, await uploads.inspected(asset))

        finals = [await uploads.final(asset) for asset in assets]

        assert [final.data for final in finals if final] == [b"%02d" % number for number in range(len(names))]


def _is_filename(text: str) -> bool:
    try:
        parse_filename(text)
    except InvalidField:
        return False
    return True


_NUMBERS = itertools.count(1000)
_FILENAMES = st.none() | (st.text(min_size=1, max_size=60) | TEXTS).filter(_is_filename)


class BlobStoreMachine(RuleBasedStateMachine):
    """Any sequence of uploads, inspections, copies and deletions leaves what a dictionary would hold."""

    assets = Bundle("assets")
    urls = Bundle("urls")
    blobs = Bundle("blobs")

    opened_by: ClassVar[OpenSubject]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._exits = AsyncExitStack()
        self._subject = self._runner.run(self._exits.enter_async_context(type(self).opened_by()))
        self._uploads = Uploads(self._subject)
        self._staged: dict[Asset, bytes] = {}
        self._final: dict[Asset, bytes] = {}

    @initialize(
        target=assets,
        described=st.lists(
            st.tuples(DIDS, _FILENAMES, st.sampled_from(TYPES), st.integers(1, 5)), min_size=1, max_size=4
        ),
    )
    def some_assets(self, described):
        return multiple(
            *(
                asset_named(next(_NUMBERS), size_bytes, filename=filename, did=did, mime=mime)
                for did, filename, mime, size_bytes in described
            )
        )

    @rule(target=urls, asset=assets)
    def hand_out_a_url(self, asset):
        return asset, self._runner.run(self._uploads.url(asset))

    # Few different bytes, so that an upload is often repeated, and now and then of another size.
    @rule(used=urls, byte=st.sampled_from(b"ab"), off_by=st.sampled_from([0, 0, 0, 0, -1, 1]))
    def upload(self, used, byte, off_by):
        asset, url = used
        data = bytes([byte]) * (asset.size_bytes + off_by)
        try:
            self._runner.run(self._subject.put(url, data))
        except MediaTooLarge:
            assert off_by == 1
        else:
            self._staged[asset] = data

    @rule(target=blobs, asset=assets)
    def inspect(self, asset):
        data = self._staged.get(asset)
        try:
            blob = self._runner.run(self._uploads.inspect(asset))
        except MediaSizeMismatch as mismatch:
            assert data is not None
            assert mismatch.actual_bytes == len(data) != asset.size_bytes  # noqa: PT017 - a rule goes on either way
            return multiple()
        if data is None:
            assert blob is None
            return multiple()
        assert blob is not None
        assert (blob.size_bytes, blob.head) == (asset.size_bytes, data)
        assert blob.sha256 == hashlib.sha256(data).hexdigest()
        return asset, blob, data

    @rule(inspected=blobs)
    def promote(self, inspected):
        asset, blob, data = inspected
        promoted = self._runner.run(self._uploads.promote(asset, blob))
        assert promoted or self._staged.get(asset) != data
        if promoted:
            self._final[asset] = data
        self.download(asset)

    @rule(asset=assets)
    def download(self, asset):
        final = self._runner.run(self._uploads.final(asset))
        assert (final.data if final else None) == self._final.get(asset)

    @rule(asset=assets)
    def delete_staged(self, asset):
        self._runner.run(self._uploads.store.delete(asset.staging_key))
        self._staged.pop(asset, None)

    @rule(asset=assets)
    def delete_final(self, asset):
        self._runner.run(self._uploads.store.delete(asset.final_key(ENV)))
        self._final.pop(asset, None)

    def teardown(self):
        try:
            for asset in set(self._staged) | set(self._final):
                self.download(asset)
        finally:
            self._runner.run(self._exits.aclose())
            self._runner.close()


def blob_store_machine(open_subject: OpenSubject) -> type[BlobStoreMachine]:
    return type("BlobStoreMachine", (BlobStoreMachine,), {"opened_by": staticmethod(open_subject)})
