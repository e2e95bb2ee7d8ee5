"""Where media bytes live."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StagedBlob:
    """An uploaded object, read to its end. `sha256`: 64 lower-case hex. `head`: its first bytes, up to 64.

    `etag`: the store's mark of exactly these bytes, to be given back to `promote`.
    """

    size_bytes: int
    sha256: str
    etag: str
    head: bytes


class BlobStore(Protocol):
    """Keeps objects by key: staging keys that clients write to, final keys that only `promote` writes.

    All methods raise Unavailable when the store cannot be reached in time.
    """

    async def upload_url(self, staging_key: str, *, size_bytes: int, expires_at: datetime) -> str:
        """Return a URL that takes one plain PUT of the object until `expires_at`, for that key and nothing else.

        Relative to the service's own address when the service itself takes the bytes.
        """
        ...

    async def inspect(self, staging_key: str, *, size_bytes: int) -> StagedBlob | None:
        """Read the staged object once, in constant memory and off the event loop; None if nothing was uploaded.

        Raises: MediaSizeMismatch: it has another size than `size_bytes`; then it is not read.
        """
        ...

    async def promote(self, staging_key: str, etag: str, final_key: str, *, mime_type: str, disposition: str) -> bool:
        """Copy exactly the bytes that `etag` marks to `final_key`, durably; False if they are no longer staged.

        Repeatable: an object already at `final_key` is replaced whole or not at all.
        """
        ...

    async def download_url(
        self, final_key: str, *, mime_type: str, disposition: str, expires_at: datetime, head: bool = False
    ) -> str:
        """Return a URL that gives the object to a plain GET, or `head` of it to a plain HEAD, until `expires_at`.

        Relative like `upload_url`.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove the object; nothing happens if there is none."""
        ...


class Chunks(Protocol):
    """The bytes of an object, piece by piece."""

    def __call__(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` up to, not including, `stop`; to the end when it is None.

        Nothing is opened before the first is asked for. Raises: Unavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class BlobContent:
    """An object on its way out: `size_bytes` is the whole object's, `chunks` gives all of it or any part."""

    size_bytes: int
    mime_type: str
    disposition: str
    chunks: Chunks


class ServedBlobStore(BlobStore, Protocol):
    """A blob store without a server of its own: our service takes and gives the bytes at the URLs handed out."""

    async def receive(self, token: str, chunks: AsyncIterator[bytes]) -> None:
        """Store an upload, whole or not at all, replacing an earlier one. `token` is the last part of an upload URL.

        Raises: BlobUrlRefused: forged, expired, or a download URL's. MediaTooLarge: more bytes than the store takes.
        """
        ...

    async def open(self, token: str) -> BlobContent:
        """Return the object of a download URL. Raises: BlobUrlRefused; AssetNotFound when the object is gone."""
        ...
