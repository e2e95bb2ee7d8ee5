"""Media in an S3-compatible object store, through the minio client, which blocks and so runs in threads of its own.

Clients upload to and download from the store itself, at presigned URLs. URLs are signed locally, and only while the
store is known to be reachable.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import secrets
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import anyio
from minio import Minio
from minio.commonconfig import REPLACE, CopySource
from minio.credentials.credentials import Credentials
from minio.credentials.providers import ChainedProvider, EnvAWSProvider, IamAwsProvider, Provider
from minio.datatypes import parse_copy_object
from minio.error import MinioException, S3Error
from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from cdv_adapters.blobs.s3_bucket import Provisioned, provision_bucket
from cdv_adapters.http_pool import http_pool
from cdv_core.domain.limits import MAGIC_BYTES
from cdv_core.errors import InvalidField, MediaSizeMismatch, Unavailable
from cdv_core.ports.blobs import StagedBlob
from cdv_core.ports.clock import Clock

Keys = Callable[[], Awaitable[tuple[str, str]] | tuple[str, str]]

_CHUNK_BYTES: Final = 256 * 1024  # ours: few system calls, little memory
_SLOWEST_BYTES_PER_SECOND: Final = 4 * 1024**2  # ours: a slower store counts as down
_PROVISION_SECONDS: Final = 60.0  # ours: for some ten calls at start-up
_METADATA_TIMEOUT: Final = Timeout(connect=1.0, read=2.0)  # ours: a metadata service is local or does not exist
_TRANSIENT_STATUS: Final = (500, 502, 503, 504)
_GONE: Final = frozenset({"NoSuchKey", "NoSuchVersion", "PreconditionFailed"})
_KEYS_REJECTED: Final = frozenset(
    {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
)
# The client raises the last two for a response that it cannot parse.
_FAILURES: Final = (MinioException, HTTPError, OSError, ParseError, ValueError)

COPY_SECONDS: Final = 20.0  # ours: for the store's work before and after it copies the bytes

P = ParamSpec("P")
R = TypeVar("R")


class _CurrentCredentials(Provider):
    """Gives the minio client the credentials that were read last."""

    credentials: Credentials | None = None

    def retrieve(self) -> Credentials:
        assert self.credentials is not None, "credentials are read before each call"  # noqa: S101
        return self.credentials


@dataclass(frozen=True, slots=True)
class S3TimeLimits:
    """`connect_seconds`, `read_seconds`: of one connection. `call_seconds`: for one call, including retries; reading an
    object may take longer by what its size warrants, copying one by `copy_seconds`.

    `keys_seconds`: after this time the access keys are read again. `probe_valid_seconds`: URLs are signed only if the
    store has responded within this time, and it is probed if it has not; None: URLs are signed without a probe.
    """

    connect_seconds: float = 2.0
    read_seconds: float = 5.0
    call_seconds: float = 10.0
    copy_seconds: float = COPY_SECONDS
    keys_seconds: float = 60.0
    probe_valid_seconds: float | None = None


def copy_seconds(size_bytes: int) -> float:
    """Return how long copying this many bytes may take. Without versioning they are copied twice and read once."""
    return COPY_SECONDS + 3 * size_bytes / _SLOWEST_BYTES_PER_SECOND


class S3BlobStore:
    """A BlobStore in one bucket.

    `endpoint` and `public_endpoint` are URLs; the public one is where clients reach the store, if not at `endpoint`.
    `keys` returns the access key and the secret key. It is called again after `time_limits.keys_seconds` or when the
    store rejects them; without it the platform's credentials are used (environment, web identity, container or instance
    role). `ca_file`: PEM of the CAs to trust instead of the system's.

    The `etag` of staged bytes combines S3's ETag, the SHA-256 and, in a versioned bucket, the version: then exactly
    that version is copied. Without versioning, the copy is conditional on the ETag and is hashed again (docs: adr/002).
    """

    def __init__(
        self,
        *,
        endpoint: str,
        bucket: str,
        clock: Clock,
        region: str = "us-east-1",
        keys: Keys | None = None,
        public_endpoint: str | None = None,
        ca_file: Path | None = None,
        time_limits: S3TimeLimits = S3TimeLimits(),
        max_threads: int = 16,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bucket = bucket
        self._region = region
        self._clock = clock
        self._monotonic = monotonic
        self._keys = keys
        self._keys_fresh_until = 0.0
        self._time_limits = time_limits
        self._probe_valid_until = float("-inf")
        self._probe_task: asyncio.Task[None] | None = None
        self._threads = ThreadPoolExecutor(max_threads, thread_name_prefix="s3")
        trust = ssl.create_default_context(cafile=ca_file)

        def pool(read_seconds: float, *, read_retries: int) -> PoolManager:
            return http_pool(
                maxsize=max_threads,
                timeout=Timeout(connect=time_limits.connect_seconds, read=read_seconds),
                retries=Retry(
                    2,
                    read=read_retries,
                    redirect=0,
                    status_forcelist=_TRANSIENT_STATUS,
                    backoff_factor=0.1,
                    backoff_jitter=0.2,
                    raise_on_status=False,
                    raise_on_redirect=False,
                    respect_retry_after_header=False,  # it may say an hour
                ),
                ssl_context=trust,
            )

        self._credentials = _CurrentCredentials()
        self._pools = (
            pool(time_limits.read_seconds, read_retries=2),
            pool(time_limits.copy_seconds, read_retries=0),
        )
        self._client = self._connect(endpoint, self._pools[0])
        # A store may send nothing until a copy is complete.
        self._copier = self._connect(endpoint, self._pools[1])
        self._signer = self._connect(public_endpoint or endpoint, self._pools[0])

    async def upload_url(self, staging_key: str, *, size_bytes: int, expires_at: datetime) -> str:
        """As the port says. S3 does not limit the upload to `size_bytes`; `inspect` rejects another size unread."""
        del size_bytes
        return await self._presign("PUT", staging_key, expires_at, {})

    async def inspect(self, staging_key: str, *, size_bytes: int) -> StagedBlob | None:
        seconds = self._time_limits.call_seconds + size_bytes / _SLOWEST_BYTES_PER_SECOND
        abandoned = threading.Event()
        try:
            return await self._call(seconds, self._inspect, staging_key, size_bytes, abandoned)
        finally:
            abandoned.set()

    async def promote(self, staging_key: str, etag: str, final_key: str, *, mime_type: str, disposition: str) -> bool:
        headers = {"Content-Type": mime_type, "Content-Disposition": disposition}
        seconds = self._time_limits.call_seconds + self._time_limits.copy_seconds
        abandoned = threading.Event()
        try:
            return await self._call(seconds, self._promote, staging_key, etag, final_key, headers, abandoned)
        finally:
            abandoned.set()

    async def download_url(
        self, final_key: str, *, mime_type: str, disposition: str, expires_at: datetime, head: bool = False
    ) -> str:
        headers = {"response-content-type": mime_type, "response-content-disposition": disposition}
        return await self._presign(
            "HEAD" if head else "GET", final_key, expires_at, headers
        )  # valid for this method only

    async def delete(self, key: str) -> None:
        """As the port says. A versioned bucket keeps the deleted version until its lifecycle rule removes it."""
        await self._call(self._time_limits.call_seconds, self._delete, key)

    async def check(self) -> None:
        """Return if the bucket exists and is reachable. Raises: Unavailable."""
        if not await self._call(self._time_limits.call_seconds, self._client.bucket_exists, self._bucket):
            raise Unavailable("object store")

    async def provision(self, allowed_origins: Sequence[str]) -> list[Provisioned]:
        """Create and configure the bucket; return the outcome of each feature.

        Idempotent. `allowed_origins`: the web origins that may upload from browsers. Raises: Unavailable: the store
        does not respond.
        """
        return await self._call(_PROVISION_SECONDS, provision_bucket, self._client, self._bucket, allowed_origins)

    def close(self) -> None:
        """Close the connections and stop the threads; calls in progress may fail with Unavailable."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for pool in self._pools:
            pool.clear()

    def _connect(self, endpoint: str, pool: PoolManager) -> Minio:
        url = urlsplit(endpoint)
        # Without a region, the client would request it from the store before it signs.
        return Minio(
            url.netloc,
            secure=url.scheme == "https",
            region=self._region,
            http_client=pool,
            credentials=self._credentials,
        )

    async def _presign(self, method: str, key: str, expires_at: datetime, headers: dict[str, str]) -> str:
        await self._read_keys()
        if self._time_limits.probe_valid_seconds is not None:
            await self._require_reachable(self._time_limits.probe_valid_seconds)
        now = self._clock.now()
        return self._signer.get_presigned_url(
            method,
            self._bucket,
            key,
            expires=max(expires_at - now, timedelta(seconds=1)),
            request_date=now,
            response_headers={**headers},
        )

    async def _require_reachable(self, valid_seconds: float) -> None:
        """Return if the store has responded within `valid_seconds`; otherwise probe it. Concurrent calls share a probe.

        Raises: Unavailable: the store is down, and a URL to it would be useless.
        """
        if self._monotonic() > self._probe_valid_until:
            if self._probe_task is None or self._probe_task.done():
                self._probe_task = asyncio.create_task(self._probe(valid_seconds))
            await asyncio.shield(self._probe_task)

    async def _probe(self, valid_seconds: float) -> None:
        try:
            await self.check()
        except Unavailable as unavailable:
            # Access denied is a response too: the keys may allow PUT and GET of objects, but not to look up the bucket.
            # Readiness reports that.
            cause = unavailable.__cause__
            if not isinstance(cause, S3Error) or cause.code != "AccessDenied":
                raise
        self._probe_valid_until = self._monotonic() + valid_seconds

    async def _call(self, seconds: float, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the blocking `work` with the current keys; once more with new keys if the store rejected these."""
        before = await self._read_keys()
        try:
            return await self._in_thread(seconds, partial(work, *args, **kwargs))
        except Unavailable as unavailable:
            cause = unavailable.__cause__
            if not isinstance(cause, S3Error) or cause.code not in _KEYS_REJECTED:
                raise
            self._keys_fresh_until = 0.0
            if await self._read_keys() == before:
                raise
        return await self._in_thread(seconds, partial(work, *args, **kwargs))

    async def _in_thread(self, seconds: float, work: Callable[[], R]) -> R:
        try:
            with anyio.fail_after(seconds):
                # An executor, not anyio's threads: here a thread whose caller timed out still counts to the limit.
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except _FAILURES as error:
            raise Unavailable("object store") from error

    async def _read_keys(self) -> Credentials:
        """Return the keys to sign with; read them again if they are older than `keys_seconds`. Raises: Unavailable."""
        if self._monotonic() >= self._keys_fresh_until:
            try:
                self._credentials.credentials = await self._fetch_keys()
            except Unavailable:
                if self._credentials.credentials is None:
                    raise
                # Otherwise continue with the old keys: if they are no longer valid, the store rejects them.
            self._keys_fresh_until = self._monotonic() + self._time_limits.keys_seconds
        return self._credentials.retrieve()

    async def _fetch_keys(self) -> Credentials:
        if self._keys is None:
            return await self._in_thread(self._time_limits.call_seconds, self._platform_credentials)
        try:
            keys = self._keys()
            return Credentials(*(await keys if inspect.isawaitable(keys) else keys))
        except (InvalidField, ValueError) as error:  # an invalid secret reference, or an empty key
            raise Unavailable("object store") from error

    def _platform_credentials(self) -> Credentials:
        # A new chain each time: a chain caches temporary keys until ten seconds before they expire, and signed URLs
        # expire with their keys.
        with PoolManager(timeout=_METADATA_TIMEOUT, retries=Retry(1)) as http:
            role = IamAwsProvider(http_client=http, region=self._region)
            try:
                return ChainedProvider([EnvAWSProvider(), role]).retrieve()
            except (LookupError, TypeError) as error:
                raise ValueError("the platform's credentials cannot be read") from error

    # The methods below block. They are called in threads only.

    def _inspect(self, key: str, size_bytes: int, abandoned: threading.Event) -> StagedBlob | None:
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

    def _delete(self, key: str) -> None:
        self._client.remove_object(self._bucket, key)
        # Also delete sealed copies that a crash in `_promote` may have left behind.
        for sealed in self._client.list_objects(self._bucket, prefix=f"{key}."):
            self._client.remove_object(self._bucket, sealed.object_name or key)

    def _promote(
        self,
        staging_key: str,
        combined_etag: str,
        final_key: str,
        headers: dict[str, str],
        abandoned: threading.Event,
    ) -> bool:
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
    """Yield the body's bytes as they arrive. Raises TimeoutError: `abandoned`, nobody waits for them any more."""
    # Not `stream`, which waits until a chunk is full: a store that sends a byte now and then would keep the thread.
    while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
        if abandoned.is_set():
            raise TimeoutError
        yield chunk
