"""Media in an S3-compatible object store, through the minio client, which blocks and so runs in threads of its own.

What the threads do is in `s3_objects.py`, how the bucket is set up in `s3_bucket.py`.

Clients upload to and download from the store itself, at presigned URLs. URLs are signed locally, and only while the
store is known to be reachable.
"""

from __future__ import annotations

import asyncio
import inspect
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
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
from minio.credentials.credentials import Credentials
from minio.error import MinioException, S3Error
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from cdv_adapters.blobs.s3_bucket import Provisioned, provision_bucket
from cdv_adapters.blobs.s3_credentials import CurrentCredentials, platform_credentials
from cdv_adapters.blobs.s3_objects import S3Objects
from cdv_adapters.http_pool import http_pool
from cdv_core.errors import InvalidField, Unavailable
from cdv_core.ports.blobs import StagedBlob
from cdv_core.ports.clock import Clock

Keys = Callable[[], Awaitable[tuple[str, str]] | tuple[str, str]]

_SLOWEST_BYTES_PER_SECOND: Final = 4 * 1024**2  # ours: a slower store counts as down
_PROVISION_SECONDS: Final = 60.0  # ours: for some ten calls at start-up
_TRANSIENT_STATUS: Final = (500, 502, 503, 504)
_KEYS_REJECTED: Final = frozenset(
    {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
)
# The client raises the last two for a response that it cannot parse.
_FAILURES: Final = (MinioException, HTTPError, OSError, ParseError, ValueError)

COPY_SECONDS: Final = 20.0  # ours: for the store's work before and after it copies the bytes

P = ParamSpec("P")
R = TypeVar("R")


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
        self._time_limits = time_limits
        self._probe_valid_until = float("-inf")
        self._probe_task: asyncio.Task[None] | None = None
        self._threads = ThreadPoolExecutor(max_threads, thread_name_prefix="s3")
        self._credentials = CurrentCredentials(self._fetch_keys, time_limits.keys_seconds, monotonic)
        trust = ssl.create_default_context(cafile=ca_file)
        calls = _pool(time_limits, time_limits.read_seconds, trust, max_threads, read_retries=2)
        # A store may send nothing until a copy is complete.
        copies = _pool(time_limits, time_limits.copy_seconds, trust, max_threads, read_retries=0)
        self._pools = (calls, copies)
        self._client = self._connect(endpoint, calls)
        self._signer = self._connect(public_endpoint or endpoint, calls)
        self._objects = S3Objects(self._client, self._connect(endpoint, copies), bucket)

    async def upload_url(self, staging_key: str, *, size_bytes: int, expires_at: datetime) -> str:
        """As the port says. S3 does not limit the upload to `size_bytes`; `inspect` rejects another size unread."""
        del size_bytes
        return await self._presign("PUT", staging_key, expires_at, {})

    async def inspect(self, staging_key: str, *, size_bytes: int) -> StagedBlob | None:
        seconds = self._time_limits.call_seconds + size_bytes / _SLOWEST_BYTES_PER_SECOND
        abandoned = threading.Event()
        try:
            return await self._call(seconds, self._objects.inspect, staging_key, size_bytes, abandoned)
        finally:
            abandoned.set()

    async def promote(self, staging_key: str, etag: str, final_key: str, *, mime_type: str, disposition: str) -> bool:
        headers = {"Content-Type": mime_type, "Content-Disposition": disposition}
        seconds = self._time_limits.call_seconds + self._time_limits.copy_seconds
        abandoned = threading.Event()
        try:
            return await self._call(seconds, self._objects.promote, staging_key, etag, final_key, headers, abandoned)
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
        await self._call(self._time_limits.call_seconds, self._objects.delete, key)

    async def check(self) -> None:
        """Return if the bucket exists and is reachable. Raises: Unavailable."""
        if not await self._call(self._time_limits.call_seconds, self._client.bucket_exists, self._bucket):
            raise Unavailable("object_store")

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
        await self._credentials.current()
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
        before = await self._credentials.current()
        try:
            return await self._in_thread(seconds, partial(work, *args, **kwargs))
        except Unavailable as unavailable:
            cause = unavailable.__cause__
            if not isinstance(cause, S3Error) or cause.code not in _KEYS_REJECTED:
                raise
            self._credentials.expire()
            if await self._credentials.current() == before:
                raise
        return await self._in_thread(seconds, partial(work, *args, **kwargs))

    async def _in_thread(self, seconds: float, work: Callable[[], R]) -> R:
        try:
            with anyio.fail_after(seconds):
                # An executor, not anyio's threads: here a thread whose caller timed out still counts to the limit.
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except _FAILURES as error:
            raise Unavailable("object_store") from error

    async def _fetch_keys(self) -> Credentials:
        if self._keys is None:
            return await self._in_thread(self._time_limits.call_seconds, partial(platform_credentials, self._region))
        try:
            keys = self._keys()
            return Credentials(*(await keys if inspect.isawaitable(keys) else keys))
        except (InvalidField, ValueError) as error:  # an invalid secret reference, or an empty key
            raise Unavailable("object_store") from error


def _pool(
    time_limits: S3TimeLimits, read_seconds: float, trust: ssl.SSLContext, max_connections: int, *, read_retries: int
) -> PoolManager:
    return http_pool(
        maxsize=max_connections,
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
