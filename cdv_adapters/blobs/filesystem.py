"""Media as files in one directory, for the embedded vault. POSIX: the parts of a key become file names.

    objects/<key>      staged uploads (`uploads/...`) and permanent objects; all files here are complete
    incoming/<random>  files being written; each is synced and then renamed into `objects`
    url-signing.key    the key that signs the URLs (url_tokens.py)

A file in `objects` is never modified, only replaced by a rename: a reader with an open file sees one whole upload.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, BinaryIO, Final, ParamSpec, TypeVar

from anyio import CancelScope, to_thread

from cdv_adapters.blobs.url_tokens import DownloadGrant, UploadGrant, UrlTokens, read_or_create_key
from cdv_adapters.data_dir import MediaDir
from cdv_adapters.durable_files import sync_directory
from cdv_core.domain.limits import MAGIC_BYTES
from cdv_core.errors import AssetNotFound, CannotStart, MediaSizeMismatch, MediaTooLarge, Unavailable
from cdv_core.ports.blobs import BlobContent, StagedBlob
from cdv_core.ports.clock import Clock

_UPLOAD_PATH: Final = "/v1/blobs/upload/"
_DOWNLOAD_PATH: Final = "/v1/blobs/download/"
_CHUNK_BYTES: Final = 256 * 1024  # ours: few thread switches, little memory
_NAME_MAX_BYTES: Final = 255  # the limit of most file systems
_ABANDONED_AFTER_SECONDS: Final = 24 * 3600  # ours: no upload takes a day, so its process must have died

P = ParamSpec("P")
R = TypeVar("R")


class FilesystemBlobStore:
    """A ServedBlobStore on a local directory that several processes may share.

    The `etag` of staged bytes is their SHA-256: `promote` hashes the bytes that it copies, and so does not rely on file
    times or inode numbers, which a replaced file may reuse. An upload may have up to `upload_max_bytes`, whatever size
    was declared, and `inspect` reports a wrong size: as with an object store, so that clients see the same in both.
    """

    def __init__(self, root: Path, clock: Clock, upload_max_bytes: int) -> None:
        self._root = root
        self._upload_max_bytes = int(upload_max_bytes)  # settings pass pydantic's ByteSize, which msgspec cannot encode
        directory = MediaDir(root)
        self._objects = directory.objects
        self._incoming = directory.incoming
        self._key_file = directory.url_signing_key
        self._clock = clock
        self._tokens: UrlTokens | None = None

    async def prepare(self) -> None:
        """Create the directories and the key, and check that files can be written. Raises: CannotStart."""
        try:
            await self.check()
        except Unavailable as error:
            cause = error.__cause__
            if isinstance(cause, OSError):
                reason = cause.strerror or str(cause)
                raise CannotStart(
                    f"keep media in {self._root}", reason, "let this user write there, or set CDV_DATA_DIR to another"
                ) from error
            raise CannotStart("sign URLs", str(cause), "restore it from a backup if uploads are under way") from error

    async def upload_url(self, staging_key: str, *, size_bytes: int, expires_at: datetime) -> str:
        del size_bytes
        tokens = await self._prepare()
        return _UPLOAD_PATH + tokens.sign(UploadGrant(staging_key, self._upload_max_bytes, expires_at))

    async def download_url(
        self, final_key: str, *, mime_type: str, disposition: str, expires_at: datetime, head: bool = False
    ) -> str:
        del head  # the service answers both methods at the same URL
        tokens = await self._prepare()
        return _DOWNLOAD_PATH + tokens.sign(DownloadGrant(final_key, mime_type, disposition, expires_at))

    async def inspect(self, staging_key: str, *, size_bytes: int) -> StagedBlob | None:
        return await _in_thread(self._inspect, staging_key, size_bytes)

    async def promote(self, staging_key: str, etag: str, final_key: str, *, mime_type: str, disposition: str) -> bool:
        """As the port says. The type and the disposition are not stored: they are part of the download URL."""
        del mime_type, disposition
        await self._prepare()
        return await _in_thread(self._promote, staging_key, etag, final_key)

    async def delete(self, key: str) -> None:
        await _in_thread(self._delete, key)

    async def receive(self, token: str, chunks: AsyncIterator[bytes]) -> None:
        grant = (await self._prepare()).verify(token, UploadGrant)
        temporary = self._incoming / uuid.uuid4().hex
        received_bytes = 0
        try:
            file = await _in_thread(temporary.open, "xb")
            try:
                async for chunk in chunks:
                    received_bytes += len(chunk)
                    if received_bytes > grant.size_bytes:
                        raise MediaTooLarge(received_bytes, grant.size_bytes)
                    await _in_thread(file.write, chunk)
                await _in_thread(_sync, file)
            finally:
                with CancelScope(shield=True):
                    await _in_thread(file.close)
            await _in_thread(self._move_into_place, temporary, grant.key)
        finally:
            with CancelScope(shield=True):
                await _in_thread(temporary.unlink, missing_ok=True)

    async def open(self, token: str) -> BlobContent:
        grant = (await self._prepare()).verify(token, DownloadGrant)
        size_bytes = await _in_thread(self._size, grant.key)

        async def chunks(start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
            left = (size_bytes if stop is None else stop) - start
            file = await _in_thread(self._open, grant.key)
            try:
                await _in_thread(file.seek, start)
                while left > 0:
                    chunk = await _in_thread(file.read, min(left, _CHUNK_BYTES))
                    if not chunk:
                        raise Unavailable("object_store")  # the file was deleted or truncated while being read
                    left -= len(chunk)
                    yield chunk
            finally:
                file.close()

        return BlobContent(size_bytes, grant.mime_type, grant.disposition, chunks)

    async def check(self) -> None:
        """Return if objects can be written now. Raises: Unavailable."""
        await self._prepare()
        await _in_thread(self._try_to_write)

    async def _prepare(self) -> UrlTokens:
        if self._tokens is None:
            try:
                self._tokens = UrlTokens(await _in_thread(self._make_ready), self._clock)
            except ValueError as error:  # the key file is damaged
                raise Unavailable("object_store") from error
        return self._tokens

    # The methods below block. They are called in threads only.

    def _make_ready(self) -> bytes:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._objects.mkdir(exist_ok=True)
        self._incoming.mkdir(exist_ok=True)
        for left_over in self._incoming.iterdir():
            with suppress(FileNotFoundError):  # its writer, or another process that cleans up, was faster
                if left_over.stat().st_mtime < time.time() - _ABANDONED_AFTER_SECONDS:
                    left_over.unlink()
        return read_or_create_key(self._key_file)

    def _inspect(self, key: str, size_bytes: int) -> StagedBlob | None:
        try:
            file = self._open(key)
        except FileNotFoundError:
            return None
        with file:
            actual_bytes = os.fstat(file.fileno()).st_size
            if actual_bytes != size_bytes:
                raise MediaSizeMismatch(size_bytes, actual_bytes)
            head = file.read(MAGIC_BYTES)
            digest = hashlib.sha256(head)
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return StagedBlob(size_bytes, digest.hexdigest(), digest.hexdigest(), head)

    def _promote(self, staging_key: str, sha256: str, final_key: str) -> bool:
        try:
            source = self._open(staging_key)
        except FileNotFoundError:
            return False
        with source, self._temporary() as (temporary, copy):
            digest = hashlib.sha256()
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
            if digest.hexdigest() != sha256:
                return False
            _sync(copy)
            self._move_into_place(temporary, final_key)
        return True

    def _delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink()
            sync_directory(path.parent)
        except FileNotFoundError:
            return
        if path.parent.parent != self._objects.resolve():
            with suppress(OSError):  # not empty or already removed: an asset's directory is removed with its last file
                path.parent.rmdir()

    def _size(self, key: str) -> int:
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            raise AssetNotFound(Path(key).parent.name) from None

    def _try_to_write(self) -> None:
        with self._temporary() as (_, file):
            file.write(b"ready?")
            _sync(file)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Path, BinaryIO]]:
        path = self._incoming / uuid.uuid4().hex
        try:
            with path.open("xb") as file:
                yield path, file
        finally:
            path.unlink(missing_ok=True)

    def _move_into_place(self, temporary: Path, key: str) -> None:
        """Durably make the synced file the object at `key`, replacing an existing one."""
        path = self._path(key)
        missing = [path.parent]
        while not missing[-1].exists():
            missing.append(missing[-1].parent)
        for directory in reversed(missing[:-1]):
            directory.mkdir(exist_ok=True)
            sync_directory(directory.parent)
        temporary.rename(path)
        sync_directory(path.parent)

    def _open(self, key: str) -> BinaryIO:
        return self._path(key).open("rb")

    def _path(self, key: str) -> Path:
        """Return the object's path. Raises ValueError: an invalid key, which is a bug: clients cannot choose keys."""
        parts = key.split("/")
        if any(not part.strip(".") or "\0" in part or len(os.fsencode(part)) > _NAME_MAX_BYTES for part in parts):
            raise ValueError(f"not an object key: {key!r}")
        objects = self._objects.resolve()
        path = objects.joinpath(*parts)
        # A symbolic link in the directory must not lead out of it, nor to another object.
        if path.resolve() != path:
            raise ValueError(f"leads elsewhere: {key!r}")
        return path


async def _in_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return await to_thread.run_sync(lambda: work(*args, **kwargs))
    except OSError as error:
        raise Unavailable("object_store") from error


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
