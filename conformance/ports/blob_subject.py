"""A blob store put to the test, the client's side of its URLs, and assets on their way through it.

Whoever writes an adapter gives a `Subject` as the fixture `subject` and inherits BlobStoreContract; test_blobs.py
beside this file shows how.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias

from cdv_core.domain.identifiers import AssetId, Did
from cdv_core.domain.media import Asset, content_disposition
from cdv_core.ports.blobs import BlobStore, StagedBlob
from cdv_core.ports.clock import Clock

ENV = "test"
TYPES = ("image/png", "image/jpeg", "video/mp4")
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


def asset_named(
    number: int, size_bytes: int, *, filename: str | None = "a.png", did: str = "did:plc:abc", mime: str = TYPES[0]
) -> Asset:
    """Return asset `number` of a creator: two of one number are the same asset."""
    asset_id = AssetId.parse(f"01K{number:023d}")
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return Asset(asset_id, Did.parse(did), mime, size_bytes, begin, begin + timedelta(minutes=15), filename)
