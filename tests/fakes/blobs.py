"""An in-memory blob store."""

import hashlib
from collections.abc import AsyncIterator
from datetime import datetime

from cdv_core.domain.limits import MAGIC_BYTES
from cdv_core.errors import AssetNotFound, BlobUrlRefused, MediaSizeMismatch, MediaTooLarge, Unavailable
from cdv_core.ports.blobs import BlobContent, StagedBlob
from cdv_core.ports.clock import Clock


class FakeBlobStore:
    """A ServedBlobStore. `objects`: by key. While `down` is true, every call raises Unavailable.

    Deleting one of the keys in `stuck` raises Unavailable too, and is counted in `refusals`.
    """

    def __init__(self, clock: Clock) -> None:
        self.objects: dict[str, bytes] = {}
        self.down = False
        self.stuck: set[str] = set()
        self.refusals = 0
        self._clock = clock
        self._uploads: dict[str, tuple[str, int, datetime]] = {}
        self._downloads: dict[str, tuple[str, str, str, datetime]] = {}

    async def upload_url(self, staging_key: str, *, size_bytes: int, expires_at: datetime) -> str:
        self._reach()
        token = f"up{len(self._uploads)}"
        self._uploads[token] = staging_key, size_bytes, expires_at
        return f"/v1/blobs/upload/{token}"

    async def inspect(self, staging_key: str, *, size_bytes: int) -> StagedBlob | None:
        self._reach()
        data = self.objects.get(staging_key)
        if data is None:
            return None
        if len(data) != size_bytes:
            raise MediaSizeMismatch(size_bytes, len(data))
        sha256 = hashlib.sha256(data).hexdigest()
        return StagedBlob(size_bytes, sha256, sha256, data[:MAGIC_BYTES])

    async def promote(self, staging_key: str, etag: str, final_key: str, *, mime_type: str, disposition: str) -> bool:
        self._reach()
        data = self.objects.get(staging_key)
        if data is None or hashlib.sha256(data).hexdigest() != etag:
            return False
        self.objects[final_key] = data
        return True

    async def download_url(
        self, final_key: str, *, mime_type: str, disposition: str, expires_at: datetime, head: bool = False
    ) -> str:
        del head
        self._reach()
        token = f"down{len(self._downloads)}"
        self._downloads[token] = final_key, mime_type, disposition, expires_at
        return f"/v1/blobs/download/{token}"

    async def delete(self, key: str) -> None:
        self._reach()
        if key in self.stuck:
            self.refusals += 1
            raise Unavailable("object_store")
        self.objects.pop(key, None)

    async def receive(self, token: str, chunks: AsyncIterator[bytes]) -> None:
        self._reach()
        if token not in self._uploads:
            raise BlobUrlRefused("for_another_purpose" if token in self._downloads else "not_signed_by_us")
        key, size_bytes, expires_at = self._uploads[token]
        self._refuse_expired(expires_at)
        data = b""
        async for chunk in chunks:
            data += chunk
            if len(data) > size_bytes:
                raise MediaTooLarge(len(data), size_bytes)
        self.objects[key] = data

    async def open(self, token: str) -> BlobContent:
        self._reach()
        if token not in self._downloads:
            raise BlobUrlRefused("for_another_purpose" if token in self._uploads else "not_signed_by_us")
        key, mime_type, disposition, expires_at = self._downloads[token]
        self._refuse_expired(expires_at)
        data = self.objects.get(key)
        if data is None:
            raise AssetNotFound(key.split("/")[-2])

        async def chunks(start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
            yield data[start:stop]

        return BlobContent(len(data), mime_type, disposition, chunks)

    def _reach(self) -> None:
        if self.down:
            raise Unavailable("object_store")

    def _refuse_expired(self, expires_at: datetime) -> None:
        if expires_at <= self._clock.now():
            raise BlobUrlRefused("expired")
