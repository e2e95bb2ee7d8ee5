"""The objects of one bucket: reading, verifying, copying. Every method blocks; `s3.py` calls them in threads."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterator
from typing import Final

from minio import Minio
from minio.commonconfig import REPLACE, CopySource
from minio.datatypes import parse_copy_object
from minio.error import S3Error
from urllib3 import BaseHTTPResponse

from cdv_core.domain.limits import MAGIC_BYTES
from cdv_core.errors import MediaSizeMismatch
from cdv_core.ports.blobs import StagedBlob

_CHUNK_BYTES: Final = 256 * 1024  # ours: few system calls, little memory
_GONE: Final = frozenset({"NoSuchKey", "NoSuchVersion", "PreconditionFailed"})


class S3Objects:
    """`copier`: a client that waits as long as copying the largest object may take; `client`: for everything else.

    Raises what the minio client raises, and TimeoutError once `abandoned` is set: nobody waits for the result any more.
    """

    def __init__(self, client: Minio, copier: Minio, bucket: str) -> None:
        self._client = client
        self._copier = copier
        self._bucket = bucket

    def inspect(self, key: str, size_bytes: int, abandoned: threading.Event) -> StagedBlob | None:
        """Return the size, hash and first bytes of the object; None if there is none.

        Raises: MediaSizeMismatch: it has another size; it was not read.
        """
        try:
            response = self._client.get_object(self._bucket, key)
        except S3Error as error:
            if error.code in _GONE:
                return None
            raise
        # On exit, a connection whose response was read to the end returns to the pool; any other is closed.
        with response:
            actual_bytes = int(response.headers.get("Content-Length", ""))
            if actual_bytes != size_bytes:
                raise MediaSizeMismatch(size_bytes, actual_bytes)
            head = b""
            digest = hashlib.sha256()
            # Not decoded: the uploader chose the Content-Encoding, and the stored bytes are what is verified.
            for chunk in _chunks(response, abandoned):
                head += chunk[: MAGIC_BYTES - len(head)]
                digest.update(chunk)
        etag = response.headers.get("ETag", "").strip('"')
        version = response.headers.get("x-amz-version-id", "null")
        sha256 = digest.hexdigest()
        return StagedBlob(size_bytes, sha256, f"{etag} {version} {sha256}", head)

    def promote(
        self,
        staging_key: str,
        combined_etag: str,
        final_key: str,
        headers: dict[str, str],
        abandoned: threading.Event,
    ) -> bool:
        """Copy exactly the bytes that `inspect` gave this etag to the final key; False if they are there no more."""
        etag, version, sha256 = combined_etag.split(" ")
        staged = CopySource(
            self._bucket, staging_key, match_etag=etag, version_id=None if version == "null" else version
        )
        try:
            if version != "null":
                self._copy(staged, final_key, headers)
                return True
            # Some stores first compare the ETag and then copy, and an upload may happen in between. Therefore an object
            # without a version is first copied to a sealed key, where clients cannot upload, and verified there; only
            # that copy is copied to the final key.
            sealed_key = f"{staging_key}.{secrets.token_hex(16)}"
            try:
                self._copy(staged, sealed_key, headers)
                if not self._has_sha256(sealed_key, sha256, abandoned):
                    return False
                self._copy(CopySource(self._bucket, sealed_key), final_key, headers)
            finally:
                self._client.remove_object(self._bucket, sealed_key)
        except S3Error as error:
            if error.code in _GONE:
                return False
            raise
        return True

    def delete(self, key: str) -> None:
        """Delete the object, and the sealed copies that a crash in `promote` may have left behind."""
        self._client.remove_object(self._bucket, key)
        for sealed in self._client.list_objects(self._bucket, prefix=f"{key}."):
            self._client.remove_object(self._bucket, sealed.object_name or key)

    def _copy(self, source: CopySource, key: str, headers: dict[str, str]) -> None:
        # minio's copy_object first requests the object's size, in case it is over 5 GiB; ours never is.
        copy_headers: dict[str, str | list[str] | tuple[str]] = {
            **source.gen_copy_headers(),
            **headers,
            "x-amz-metadata-directive": REPLACE,
        }
        response = self._copier._execute("PUT", self._bucket, key, headers=copy_headers)  # noqa: SLF001 - no public method
        parse_copy_object(response)  # a response with status 200 may contain an error

    def _has_sha256(self, key: str, sha256: str, abandoned: threading.Event) -> bool:
        digest = hashlib.sha256()
        with self._copier.get_object(self._bucket, key) as response:
            for chunk in _chunks(response, abandoned):
                digest.update(chunk)
        return digest.hexdigest() == sha256


def _chunks(response: BaseHTTPResponse, abandoned: threading.Event) -> Iterator[bytes]:
    """Yield the body's bytes as they arrive. Raises: TimeoutError: `abandoned`."""
    # Not `stream`, which waits until a chunk is full: a store that sends a byte now and then would keep the thread.
    while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
        if abandoned.is_set():
            raise TimeoutError
        yield chunk
