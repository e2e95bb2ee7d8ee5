"""S3 stores under test, and helpers that use them."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest
import urllib3

from cdv_adapters.blobs.s3 import S3BlobStore, S3TimeLimits
from cdv_core.errors import Unavailable
from conformance.ports.blob_subject import SystemClock
from tests.fakes.s3 import Answer, ReceivedRequest, ScriptedS3
from tests.servers import Bucket
from tests.servers.s3 import RETRIES

STAGING = "uploads/01K00000000000000000000001"
FINAL = "dev/did:plc:abc/01K00000000000000000000001/a.png"
# Far longer than any time limit under test, far shorter than a hang: shows that a limit holds, not how fast we are.
DEADLINE_SECONDS = 60
# For calls that are meant to time out; on a busy machine other calls may exceed these limits.
SHORT_TIMEOUTS: dict[str, Any] = {
    "time_limits": S3TimeLimits(connect_seconds=0.5, read_seconds=0.5, call_seconds=3.0, copy_seconds=3.0)
}


@contextmanager
def open_store(endpoint: str, bucket: Bucket | None = None, **options: Any) -> Iterator[S3BlobStore]:
    """Open a store on `bucket` at `endpoint`, which may be a proxy."""
    keys = ("access", "secret") if bucket is None else (bucket.access_key, bucket.secret_key)
    defaults: dict[str, Any] = {
        "bucket": "bucket" if bucket is None else bucket.name,
        "clock": SystemClock(),
        "keys": lambda: keys,
    }
    store = S3BlobStore(endpoint=endpoint, **(defaults | options))
    try:
        yield store
    finally:
        store.close()


@contextmanager
def scripted_store(
    answer: Callable[[ReceivedRequest], Answer], **options: Any
) -> Iterator[tuple[S3BlobStore, ScriptedS3]]:
    """Open a store on a server that sends scripted responses."""
    with ScriptedS3(answer) as server, open_store(server.url, **options) as store:
        yield store, server


def request(method: str, url: str, body: bytes | None = None) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(timeout=10, retries=RETRIES) as http:
        return http.request(method, url, body=body)


async def stage(store: S3BlobStore, data: bytes, key: str = STAGING) -> str:
    """Upload, and return the URL that was used."""
    expires_at = SystemClock().now() + timedelta(minutes=15)
    url = await store.upload_url(key, size_bytes=len(data), expires_at=expires_at)
    answer = await anyio.to_thread.run_sync(request, "PUT", url, data)
    assert answer.status == 200
    return url


async def promote(store: S3BlobStore, etag: str) -> bool:
    return await store.promote(STAGING, etag, FINAL, mime_type="image/png", disposition="inline")


async def etag_of(store: S3BlobStore, size_bytes: int) -> str:
    blob = await store.inspect(STAGING, size_bytes=size_bytes)
    assert blob is not None
    return blob.etag


async def unavailable(work: Awaitable[object]) -> BaseException:
    """Assert that the work raises Unavailable within the deadline; return the cause."""
    with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(Unavailable) as raised:
        await work
    assert raised.value.dependency == "object_store"
    assert raised.value.__cause__ is not None
    return raised.value.__cause__


async def eventually(call: Callable[[], Awaitable[object]]) -> None:
    """Assert that the call succeeds within the deadline, retrying on Unavailable."""
    with anyio.fail_after(DEADLINE_SECONDS):
        while True:
            try:
                await call()
            except Unavailable:
                await anyio.lowlevel.checkpoint()
            else:
                return
