"""A blob store under test, a client that uses its URLs, and helpers that upload, promote and download assets.

To test an adapter, inherit BlobStoreContract and provide a `Subject` as the fixture `subject`; test_blobs.py in this
folder shows how.
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
    """Real time: an external object store checks the expiry of URLs by its own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class SettableClock(SystemClock):
    """Real time minus `set_back`, so that a store can sign a URL as if it were earlier."""

    def __init__(self) -> None:
        self.set_back = timedelta()

    def now(self) -> datetime:
        return super().now() - self.set_back


@dataclass(frozen=True)
class Download:
    """The response to a GET of a download URL."""

    data: bytes
    mime_type: str
    disposition: str


class Subject(Protocol):
    """A blob store under test, and a client that uses its URLs.

    `clock`: the clock that the store signs its URLs by. If it is a SettableClock, the expiry of URLs is tested as well.
    """

    store: BlobStore
    clock: Clock

    async def put(self, url: str, data: bytes) -> None:
        """PUT `data` to a URL.

        Raises: MediaTooLarge: the store limits uploads to the declared size. BlobUrlRefused: it accepts no upload at
        this URL, for example by answering 403.
        """
        ...

    async def get(self, url: str) -> Download | None:
        """GET a URL; None if the object does not exist. Raises: BlobUrlRefused: the URL allows no download."""
        ...

    async def head(self, url: str) -> int:
        """Send a HEAD to a download URL that was created for one; return the Content-Length."""
        ...


OpenSubject: TypeAlias = Callable[[], AbstractAsyncContextManager[Subject]]
"""Opens a store, which may still hold objects of earlier state machines."""


class Uploads:
    """Uploads, promotes and downloads assets in the store under test."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.store = subject.store

    async def url(self, asset: Asset, size_bytes: int | None = None) -> str:
        expires_at = self._subject.clock.now() + UPLOAD_LIFE
        size_bytes = asset.size_bytes if size_bytes is None else size_bytes
        return await self.store.upload_url(asset.staging_key, size_bytes=size_bytes, expires_at=expires_at)

    async def put(self, asset: Asset, data: bytes) -> str:
        """Upload `data`; return the URL that was used."""
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
        """Download the promoted object with the type and disposition of its asset; None if it does not exist."""
        return await self._subject.get(await self.download_url(asset))

    async def final_size(self, asset: Asset) -> int:
        """Return the size of the promoted object, by a HEAD."""
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
    """Return asset `number` of a creator; the same number gives the same asset id."""
    asset_id = AssetId.parse(f"01K{number:023d}")
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return Asset(asset_id, Did.parse(did), mime, size_bytes, begin, begin + timedelta(minutes=15), filename)
