"""The blob store: where media bytes are stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StagedBlob:
    """An uploaded object that was read in full. `sha256`: 64 lower-case hex. `head`: its first bytes, up to 64.

    `etag`: the store's version tag of exactly these bytes, for `promote`.
    """

    size_bytes: int
    sha256: str
    etag: str
    head: bytes


class BlobStore(Protocol):
    """Stores objects by key: clients write to staging keys, only `promote` writes to final keys.

    All methods raise Unavailable when the store cannot be reached in time.
    """

    async def upload_url(self, staging_key: str, *, size_bytes: int, expires_at: datetime) -> str:
        """Return a URL that accepts a plain PUT of the object until `expires_at`, for that key only.

        Relative to the service's own address when the service itself receives the bytes.
        """
        ...

    async def inspect(self, staging_key: str, *, size_bytes: int) -> StagedBlob | None:
        """Read the staged object once, in constant memory and off the event loop; None if nothing was uploaded.

        Raises: MediaSizeMismatch: its size is not `size_bytes`; it is then not read.
        """
        ...

    async def promote(self, staging_key: str, etag: str, final_key: str, *, mime_type: str, disposition: str) -> bool:
        """Copy exactly the bytes that `etag` identifies to `final_key`, durably; False if they are no longer staged.

        Repeatable: an object already at `final_key` is replaced atomically.
        """
        ...

    async def download_url(
        self, final_key: str, *, mime_type: str, disposition: str, expires_at: datetime, head: bool = False
    ) -> str:
        """Return a URL that serves a plain GET of the object, or if `head` a plain HEAD, until `expires_at`.

        Relative or absolute like `upload_url`.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete the object; no error if there is none."""
        ...


class Chunks(Protocol):
    """The bytes of an object, in chunks."""

    def __call__(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` up to, not including, `stop`; to the end if `stop` is None.

        Nothing is opened before the first chunk is requested. Raises: Unavailable.
        """
        ...


@dataclass(frozen=True, slots=True)
class BlobContent:
    """An object to be sent. `size_bytes`: of the whole object. `chunks`: yields all of it or any range."""

    size_bytes: int
    mime_type: str
    disposition: str
    chunks: Chunks


class ServedBlobStore(BlobStore, Protocol):
    """A blob store without a server of its own: our service receives and sends the bytes at the signed URLs."""

    async def receive(self, token: str, chunks: AsyncIterator[bytes]) -> None:
        """Store an upload atomically, replacing an earlier one. `token`: the last segment of an upload URL.

        Raises: BlobUrlRefused: forged, expired, or of a download URL. MediaTooLarge: more bytes than were declared.
        """
        ...

    async def open(self, token: str) -> BlobContent:
        """Return the object of a download URL. Raises: BlobUrlRefused. AssetNotFound: the object no longer exists."""
        ...
