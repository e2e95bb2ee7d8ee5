"""Media of an embedded vault, which stores the bytes itself: upload and read them without HTTP."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from cdv_core.domain.media import Asset
from cdv_core.ports.blobs import BlobContent, ServedBlobStore
from cdv_core.ports.clock import Clock
from cdv_core.ports.ids import IdSource
from cdv_core.ports.media import MediaStore
from cdv_core.use_cases.media import Media, MediaPolicy


class ServedMedia(Media):
    """Media, with upload and download of the bytes."""

    def __init__(
        self, store: MediaStore, blobs: ServedBlobStore, clock: Clock, ids: IdSource, policy: MediaPolicy
    ) -> None:
        super().__init__(store, blobs, clock, ids, policy)
        self._served = blobs

    async def upload(self, *, did: str, mime_type: str, content: bytes, filename: str | None = None) -> Asset:
        """Store `content` and return the permanent asset: init, upload and finalize in one call.

        Uploading the same bytes again makes another asset. Raises: as `init_upload` and `finalize`.
        """
        sha256 = hashlib.sha256(content).hexdigest()
        upload = await self.init_upload(
            did=did, mime_type=mime_type, size=len(content), sha256=sha256, filename=filename
        )
        await self._served.receive(_token(upload.url), _single_chunk(content))
        return await self.finalize(asset_id=upload.asset.asset_id, sha256=sha256)

    async def read(self, asset_id: str) -> BlobContent:
        """Return a finalised asset's bytes, readable in chunks, any number of times within 5 minutes.

        Raises: AssetNotFound: unknown or not finalised. Unavailable.
        """
        return await self._served.open(_token(await self.content_url(asset_id)))


def _token(url: str) -> str:
    return url.rpartition("/")[2]


async def _single_chunk(content: bytes) -> AsyncIterator[bytes]:
    yield content
