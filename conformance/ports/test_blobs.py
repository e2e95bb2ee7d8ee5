"""Our blob stores against the contract: the file store, S3, and the fake that other tests use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3
from anyio import to_thread

from cdv_adapters.blobs.filesystem import FilesystemBlobStore
from cdv_adapters.blobs.s3 import S3BlobStore
from cdv_core.errors import AssetNotFound, BlobUrlRefused
from cdv_core.ports.blobs import BlobStore, ServedBlobStore
from cdv_core.ports.clock import Clock
from conformance.ports.blob_subject import Download, SettableClock, Subject
from conformance.ports.blobs import BlobStoreContract
from tests.fakes.blobs import FakeBlobStore
from tests.servers import Bucket
from tests.servers.s3 import RETRIES


class Served:
    """A store whose URLs our own service serves."""

    def __init__(self, store: ServedBlobStore, clock: Clock) -> None:
        self._served = store
        self.store: BlobStore = store
        self.clock = clock

    async def put(self, url: str, data: bytes) -> None:
        await self._served.receive(token_of(url), in_pieces(data))

    async def get(self, url: str) -> Download | None:
        try:
            content = await self._served.open(token_of(url))
        except AssetNotFound:
            return None
        data = b"".join([chunk async for chunk in content.chunks()])
        assert len(data) == content.size_bytes
        return Download(data, content.mime_type, content.disposition)

    async def head(self, url: str) -> int:
        content = await self._served.open(token_of(url))
        return content.size_bytes


def token_of(url: str) -> str:
    return url.rpartition("/")[2]


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


class Http:
    """A store with its own server, whose URLs are used over HTTP."""

    def __init__(self, store: BlobStore, http: urllib3.PoolManager, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self._http = http

    async def put(self, url: str, data: bytes) -> None:
        answer = await to_thread.run_sync(lambda: self._http.request("PUT", url, body=data))
        refuse_403(answer)
        assert answer.status == 200, answer.data

    async def get(self, url: str) -> Download | None:
        answer = await to_thread.run_sync(lambda: self._http.request("GET", url))
        if answer.status == 404:
            return None
        refuse_403(answer)
        assert answer.status == 200, answer.data
        return Download(answer.data, answer.headers["Content-Type"], answer.headers["Content-Disposition"])

    async def head(self, url: str) -> int:
        answer = await to_thread.run_sync(lambda: self._http.request("HEAD", url))
        assert answer.status == 200, answer.headers
        return int(answer.headers["Content-Length"])


def refuse_403(answer: urllib3.BaseHTTPResponse) -> None:
    if answer.status == 403:
        raise BlobUrlRefused("not_signed_by_us")


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    with urllib3.PoolManager(timeout=10, retries=RETRIES, maxsize=8) as http:
        yield http


@contextmanager
def s3_store_in(bucket: Bucket, clock: Clock) -> Iterator[S3BlobStore]:
    store = S3BlobStore(
        endpoint=bucket.endpoint,
        bucket=bucket.name,
        region=bucket.region,
        keys=lambda: (bucket.access_key, bucket.secret_key),
        clock=clock,
    )
    yield store
    store.close()


@pytest.fixture
def s3_store(s3_bucket: Bucket, clock: SettableClock) -> Iterator[S3BlobStore]:
    with s3_store_in(s3_bucket, clock) as store:
        yield store


@pytest.fixture
def versioned_s3_store(versioned_s3_bucket: Bucket, clock: SettableClock) -> Iterator[S3BlobStore]:
    with s3_store_in(versioned_s3_bucket, clock) as store:
        yield store


class TestFake(BlobStoreContract):
    @pytest.fixture
    def subject(self, clock: SettableClock) -> Subject:
        return Served(FakeBlobStore(clock), clock)


class TestFilesystem(BlobStoreContract):
    @pytest.fixture
    def subject(self, tmp_path: Path, clock: SettableClock) -> Subject:
        return Served(FilesystemBlobStore(tmp_path / "media", clock, 10 * 1024**2), clock)


class TestS3(BlobStoreContract):
    @pytest.fixture
    def subject(self, s3_store: S3BlobStore, http: urllib3.PoolManager, clock: SettableClock) -> Subject:
        return Http(s3_store, http, clock)


class TestS3WithVersions(BlobStoreContract):
    @pytest.fixture
    def subject(self, versioned_s3_store: S3BlobStore, http: urllib3.PoolManager, clock: SettableClock) -> Subject:
        return Http(versioned_s3_store, http, clock)
