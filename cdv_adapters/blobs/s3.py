"""Media bytes in an S3-compatible store, through the minio client, which blocks and so runs in threads of its own.

Clients PUT to and GET from the store itself at presigned URLs; these are computed here, of a store that has answered
lately.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import secrets
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from cdv_adapters.blobs.s3_bucket import Provisioned, provision_bucket
from cdv_core.domain.limits import MAGIC_BYTES
from cdv_core.errors import InvalidField, MediaSizeMismatch, Unavailable
from cdv_core.ports.blobs import StagedBlob
from cdv_core.ports.clock import Clock

Keys = Callable[[], Awaitable[tuple[str, str]] | tuple[str, str]]

_CHUNK_BYTES: Final = 256 * 1024  # ours: few system calls, little memory
_SLOWEST_BYTES_PER_SECOND: Final = 4 * 1024**2  # ours: a store slower than this is down
_PROVISION_SECONDS: Final = 60.0  # ours: some ten calls, at start
_METADATA_TIMEOUT: Final = Timeout(connect=1.0, read=2.0)  # ours: it is on this machine, or there is none
_TRANSIENT_STATUS: Final = (500, 502, 503, 504)
_GONE: Final = frozenset({"NoSuchKey", "NoSuchVersion", "PreconditionFailed"})
_KEYS_REFUSED: Final = frozenset(
    {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
)
# The last two are what the client raises for an answer that it cannot read.
_FAILURES: Final = (MinioException, HTTPError, OSError, ParseError, ValueError)

COPY_SECONDS: Final = 20.0  # ours: for what the store does before and after it copies

P = ParamSpec("P")
R = TypeVar("R")


class _Holder(Provider):
    """Gives the client the keys that were read last."""

    credentials: Credentials | None = None

    def retrieve(self) -> Credentials:
        assert self.credentials is not None, "keys are read before each call"  # noqa: S101
        return self.credentials


def copy_seconds(size_bytes: int) -> float:
    """Return how long copying so much may take: without versions it is copied twice, and read in between."""
    return COPY_SECONDS + 3 * size_bytes / _SLOWEST_BYTES_PER_SECOND


class S3BlobStore:
    """A BlobStore in one bucket.

    `endpoint` and `public_endpoint` are URLs; the public one is where clients reach the store, if not at `endpoint`.
    `keys` gives the access and the secret key, and is asked again after `keys_life_seconds` or when they are refused;
    without it the platform's own credentials are used (environment, web identity, container or instance role).
    `ca_file`: PEM of the authorities to trust instead of the system's. A call fails within `call_timeout_seconds`;
    reading an object has as much more as its size warrants, copying one has `copy_timeout_seconds` more.
    `answered_within_seconds`: no URL is signed unless the store has answered as lately; None: it is not asked for that.

    The mark of staged bytes is their ETag, their SHA-256 and, in a bucket that keeps versions, their version: then
    exactly that version is copied. Without versions the copy is made by ETag and hashed again (docs: adr/002).
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
        connect_timeout_seconds: float = 2.0,
        read_timeout_seconds: float = 5.0,
        call_timeout_seconds: float = 10.0,
        copy_timeout_seconds: float = COPY_SECONDS,
        keys_life_seconds: float = 60.0,
        answered_within_seconds: float | None = None,
        max_threads: int = 16,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bucket = bucket
        self._region = region
        self._clock = clock
        self._monotonic = monotonic
        self._keys = keys
        self._keys_life_seconds = keys_life_seconds
        self._keys_fresh_until = 0.0
        self._call_seconds = call_timeout_seconds
        self._copy_seconds = copy_timeout_seconds
        self._answered_within = answered_within_seconds
        self._answered_until = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._threads = ThreadPoolExecutor(max_threads, thread_name_prefix="s3")
        trust = ssl.create_default_context(cafile=ca_file)

        def pool(read_seconds: float, *, repeat_reads: int) -> PoolManager:
            return PoolManager(
                maxsize=max_threads,
                timeout=Timeout(connect=connect_timeout_seconds, read=read_seconds),
                retries=Retry(
                    2,
                    read=repeat_reads,
                    redirect=0,
                    status_forcelist=_TRANSIENT_STATUS,
                    backoff_factor=0.1,
                    backoff_jitter=0.2,
                    raise_on_status=False,
                    raise_on_redirect=False,
                    respect_retry_after_header=False,  # it may name an hour
                ),
                ssl_context=trust,
            )

        self._holder = _Holder()
        self._pools = (pool(read_timeout_seconds, repeat_reads=2), pool(copy_timeout_seconds, repeat_reads=0))
        self._client = self._connect(endpoint, self._pools[0])
        # A copy is silent until it is done.
        self._copier = self._connect(endpoint, self._pools[1])
        self._signer = self._connect(public_endpoint or endpoint, self._pools[0])

    async def upload_url(self, staging_key: str, *, size_bytes: int, expires_at: datetime) -> str:
        """As the port says. S3 does not bound what is uploaded by `size_bytes`; `inspect` refuses it unread."""
        del size_bytes
        return await self._presign("PUT", staging_key, expires_at, {})

    async def inspect(self, staging_key: str, *, size_bytes: int) -> StagedBlob | None:
        seconds = self._call_seconds + size_bytes / _SLOWEST_BYTES_PER_SECOND
        nobody_waits = threading.Event()
        try:
            return await self._call(seconds, self._inspect, staging_key, size_bytes, nobody_waits)
        finally:
            nobody_waits.set()

    async def promote(self, staging_key: str, etag: str, final_key: str, *, mime_type: str, disposition: str) -> bool:
        headers = {"Content-Type": mime_type, "Content-Disposition": disposition}
        seconds = self._call_seconds + self._copy_seconds
        return await self._call(seconds, self._promote, staging_key, etag, final_key, headers)

    async def download_url(
        self, final_key: str, *, mime_type: str, disposition: str, expires_at: datetime, head: bool = False
    ) -> str:
        headers = {"response-content-type": mime_type, "response-content-disposition": disposition}
        return await self._presign("HEAD" if head else "GET", final_key, expires_at, headers)  # good for no other

    async def delete(self, key: str) -> None:
        """As the port says. A bucket that keeps versions keeps this one until its lifecycle rule removes it."""
        await self._call(self._call_seconds, self._delete, key)

    async def check(self) -> None:
        """Return if the bucket answers. Raises: Unavailable."""
        if not await self._call(self._call_seconds, self._client.bucket_exists, self._bucket):
            raise Unavailable("object store")

    async def provision(self, allowed_origins: Sequence[str]) -> list[Provisioned]:
        """Make the bucket and protect it; return what came of each feature. Browsers at `allowed_origins` may upload.

        Repeatable. Raises: Unavailable: the store does not answer.
        """
        return await self._call(_PROVISION_SECONDS, provision_bucket, self._client, self._bucket, allowed_origins)

    def close(self) -> None:
        """Give up the threads and connections; calls under way may fail with Unavailable."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for pool in self._pools:
            pool.clear()

    def _connect(self, endpoint: str, pool: PoolManager) -> Minio:
        url = urlsplit(endpoint)
        # Without a region the client would ask the store for it before it signs.
        return Minio(
            url.netloc,
            secure=url.scheme == "https",
            region=self._region,
            http_client=pool,
            credentials=self._holder,
        )

    async def _presign(self, method: str, key: str, expires_at: datetime, headers: dict[str, str]) -> str:
        await self._read_keys()
        if self._answered_within is not None:
            await self._must_answer(self._answered_within)
        now = self._clock.now()
        return self._signer.get_presigned_url(
            method,
            self._bucket,
            key,
            expires=max(expires_at - now, timedelta(seconds=1)),
            request_date=now,
            response_headers={**headers},
        )

    async def _must_answer(self, within_seconds: float) -> None:
        """Raises Unavailable: a URL of a store that is down helps nobody. All who come meanwhile share one question."""
        if self._monotonic() > self._answered_until:
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask(within_seconds))
            await asyncio.shield(self._asking)

    async def _ask(self, within_seconds: float) -> None:
        try:
            await self.check()
        except Unavailable as unavailable:
            # Who may put and get objects need not be allowed to look at the bucket; that is for readiness to tell.
            cause = unavailable.__cause__
            if not isinstance(cause, S3Error) or cause.code != "AccessDenied":
                raise
        self._answered_until = self._monotonic() + within_seconds

    async def _call(self, seconds: float, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do blocking `work` with the present keys; once more with new ones if it is these that were refused."""
        before = await self._read_keys()
        try:
            return await self._in_thread(seconds, partial(work, *args, **kwargs))
        except Unavailable as unavailable:
            cause = unavailable.__cause__
            if not isinstance(cause, S3Error) or cause.code not in _KEYS_REFUSED:
                raise
            self._keys_fresh_until = 0.0
            if await self._read_keys() == before:
                raise
        return await self._in_thread(seconds, partial(work, *args, **kwargs))

    async def _in_thread(self, seconds: float, work: Callable[[], R]) -> R:
        try:
            with anyio.fail_after(seconds):
                # An executor and not anyio's threads: a thread that nobody waits for any more still counts.
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except _FAILURES as error:
            raise Unavailable("object store") from error

    async def _read_keys(self) -> Credentials:
        """Return the keys to sign with, read again when their life is over. Raises: Unavailable."""
        if self._monotonic() >= self._keys_fresh_until:
            try:
                self._holder.credentials = await self._fetch_keys()
            except Unavailable:
                if self._holder.credentials is None:
                    raise
                # Else go on with those in hand: if they are no good any more, the store will say so.
            self._keys_fresh_until = self._monotonic() + self._keys_life_seconds
        return self._holder.retrieve()

    async def _fetch_keys(self) -> Credentials:
        if self._keys is None:
            return await self._in_thread(self._call_seconds, self._ask_the_platform)
        try:
            answer = self._keys()
            return Credentials(*(await answer if inspect.isawaitable(answer) else answer))
        except (InvalidField, ValueError) as error:  # a reference that cannot be read, or an empty key
            raise Unavailable("object store") from error

    def _ask_the_platform(self) -> Credentials:
        # A new chain each time: it would keep temporary keys to their last ten seconds, and URLs die with their keys.
        with PoolManager(timeout=_METADATA_TIMEOUT, retries=Retry(1)) as http:
            role = IamAwsProvider(http_client=http, region=self._region)
            try:
                return ChainedProvider([EnvAWSProvider(), role]).retrieve()
            except (LookupError, TypeError) as error:
                raise ValueError("the platform's credentials cannot be read") from error

    # What follows blocks, and is called in threads only.

    def _inspect(self, key: str, size_bytes: int, nobody_waits: threading.Event) -> StagedBlob | None:
        try:
            response = self._client.get_object(self._bucket, key)
        except S3Error as error:
            if error.code in _GONE:
                return None
            raise
        # Closing gives a connection back that was read to its end, and cuts any other.
        with response:
            actual_bytes = int(response.headers.get("Content-Length", ""))
            if actual_bytes != size_bytes:
                raise MediaSizeMismatch(size_bytes, actual_bytes)
            head = b""
            digest = hashlib.sha256()
            # Undecoded: the uploader chose the Content-Encoding, and it is the bytes that are stored that count.
            for chunk in response.stream(_CHUNK_BYTES, decode_content=False):
                head += chunk[: MAGIC_BYTES - len(head)]
                digest.update(chunk)
                if nobody_waits.is_set():
                    raise TimeoutError
        etag = response.headers.get("ETag", "").strip('"')
        version = response.headers.get("x-amz-version-id", "null")
        sha256 = digest.hexdigest()
        return StagedBlob(size_bytes, sha256, f"{etag} {version} {sha256}", head)

    def _delete(self, key: str) -> None:
        self._client.remove_object(self._bucket, key)
        # And the sealed copies that a crash in `_promote` may have left behind.
        for sealed in self._client.list_objects(self._bucket, prefix=f"{key}."):
            self._client.remove_object(self._bucket, sealed.object_name or key)

    def _promote(self, staging_key: str, mark: str, final_key: str, headers: dict[str, str]) -> bool:
        etag, version, sha256 = mark.split(" ")
        staged = CopySource(
            self._bucket, staging_key, match_etag=etag, version_id=None if version == "null" else version
        )
        try:
            if version != "null":
                self._copy(staged, final_key, headers)
                return True
            # Some stores compare first and copy then, and an upload fits between. So what names no version is copied
            # to where nobody can upload, proved again there, and nothing but such a copy ever gets to the final key.
            sealed_key = f"{staging_key}.{secrets.token_hex(16)}"
            try:
                self._copy(staged, sealed_key, headers)
                if not self._holds(sealed_key, sha256):
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
        # The client's own copy_object asks for the object first, to see whether it is over 5 GiB; ours never is.
        copying: dict[str, str | list[str] | tuple[str]] = {
            **source.gen_copy_headers(),
            **headers,
            "x-amz-metadata-directive": REPLACE,
        }
        response = self._copier._execute("PUT", self._bucket, key, headers=copying)  # noqa: SLF001 - nothing public sends
        parse_copy_object(response)  # an error may stand in the body of a 200

    def _holds(self, key: str, sha256: str) -> bool:
        digest = hashlib.sha256()
        with self._copier.get_object(self._bucket, key) as response:
            for chunk in response.stream(_CHUNK_BYTES, decode_content=False):
                digest.update(chunk)
        return digest.hexdigest() == sha256
