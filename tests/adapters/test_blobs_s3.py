"""The S3 store against a real server that dies and hangs, and a scripted one that sends rare responses."""

import hashlib
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
import urllib3
from minio.error import MinioException

from cdv_adapters.blobs.s3 import S3BlobStore, S3TimeLimits
from cdv_core.errors import MediaSizeMismatch, Unavailable
from conformance.ports.blob_subject import SystemClock
from tests.adapters.s3_stores import (
    DEADLINE_SECONDS,
    SHORT_TIMEOUTS,
    STAGING,
    etag_of,
    eventually,
    open_store,
    promote,
    scripted_store,
    stage,
    unavailable,
)
from tests.fakes.s3 import Answer, ScriptedS3, refusal
from tests.servers import Bucket, FaultProxy, S3Server

CALLS: dict[str, Callable[[S3BlobStore, str], Awaitable[object]]] = {
    "inspect": lambda store, _: store.inspect(STAGING, size_bytes=5),
    "promote": promote,
    "delete": lambda store, _: store.delete(STAGING),
    "check": lambda store, _: store.check(),
    "provision": lambda store, _: store.provision([]),
}


@pytest.fixture
def store(s3_bucket: Bucket) -> Iterator[S3BlobStore]:
    with open_store(s3_bucket.endpoint, s3_bucket) as store:
        yield store


# Outages


async def test_calls_to_a_killed_store_are_unavailable_until_it_restarts(own_s3_server: S3Server):
    bucket = own_s3_server.create_bucket()
    with open_store(bucket.endpoint, bucket) as store:
        for call in CALLS.values():
            await stage(store, b"bytes")
            etag = await etag_of(store, 5)
            own_s3_server.kill()

            await unavailable(call(store, etag))

            own_s3_server.start()
            await call(store, etag)


@pytest.mark.parametrize("fault", ["hang", "hang_replies", "cut"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_network_fault_is_unavailable_within_the_time_limit_until_it_heals(
    fault: str, call: str, store: S3BlobStore, s3_bucket: Bucket
):
    await stage(store, b"bytes")
    etag = await etag_of(store, 5)
    with (
        FaultProxy(s3_bucket.endpoint) as proxy,
        open_store(proxy.url, s3_bucket, **SHORT_TIMEOUTS) as proxied,
    ):
        await eventually(lambda: proxied.inspect(STAGING, size_bytes=5))  # so that a connection is open
        getattr(proxy, fault)()

        await unavailable(CALLS[call](proxied, etag))

        proxy.heal()
        await eventually(lambda: CALLS[call](proxied, etag))


async def test_a_connection_reset_while_idle_is_replaced_transparently(s3_bucket: Bucket):
    with FaultProxy(s3_bucket.endpoint) as proxy, open_store(proxy.url, s3_bucket) as store:
        await stage(store, b"bytes")
        for call in CALLS.values():
            etag = await etag_of(store, 5)
            proxy.cut_once()
            await call(store, etag)
            await stage(store, b"bytes")


async def test_a_hanging_store_does_not_block_the_event_loop(s3_bucket: Bucket):
    with FaultProxy(s3_bucket.endpoint) as proxy, open_store(proxy.url, s3_bucket) as store:
        await stage(store, b"bytes")
        proxy.hang()
        etags: list[str] = []

        async def inspect() -> None:
            etags.append(await etag_of(store, 5))

        async with anyio.create_task_group() as group:
            group.start_soon(inspect)
            await anyio.lowlevel.checkpoint()
            proxy.heal()  # if the loop were blocked, this would come after the timeout

        assert len(etags) == 1


async def test_more_calls_than_threads_all_time_out_while_the_store_hangs(store: S3BlobStore, s3_bucket: Bucket):
    await stage(store, b"bytes")
    with (
        FaultProxy(s3_bucket.endpoint) as proxy,
        open_store(proxy.url, s3_bucket, **SHORT_TIMEOUTS, max_threads=2) as proxied,
    ):
        proxy.hang()
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(unavailable, proxied.inspect(STAGING, size_bytes=5))
        proxy.heal()

        await eventually(lambda: etag_of(proxied, 5))


async def test_a_closed_port_is_unavailable(s3_bucket: Bucket):
    with ScriptedS3(lambda _: Answer()) as gone:
        pass
    with open_store(gone.url, s3_bucket) as store:
        for call in CALLS.values():
            assert isinstance(await unavailable(call(store, "etag null sha256")), urllib3.exceptions.HTTPError)


# Responses that a real store sends rarely

FAILING_ANSWERS = {
    "slow_down": refusal(503, "SlowDown"),
    "internal_error": refusal(500, "InternalError"),
    "access_denied": refusal(403, "AccessDenied"),
    "unknown_key": refusal(403, "InvalidAccessKeyId"),
    "a_proxys_page": Answer(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}),
    "empty": Answer(500),
    "not_xml": Answer(400, b"{", {"Content-Type": "application/xml"}),
    "not_text": Answer(400, b"\xff\xfe", {"Content-Type": "application/octet-stream"}),
    "redirect": Answer(307, b"<Error/>", {"Content-Type": "application/xml", "Location": "http://127.0.0.1:1/"}),
}


@pytest.mark.parametrize("answer", FAILING_ANSWERS)
@pytest.mark.parametrize("call", ["inspect", "promote", "delete", "check"])
async def test_an_error_response_is_unavailable(call: str, answer: str):
    with scripted_store(lambda _: FAILING_ANSWERS[answer]) as (store, _):
        cause = await unavailable(CALLS[call](store, "etag null sha256"))

    assert isinstance(cause, (MinioException, ValueError, SyntaxError))


@pytest.mark.parametrize("call", ["inspect", "promote", "delete"])
async def test_calls_on_a_missing_bucket_are_unavailable(call: str):
    with scripted_store(lambda _: refusal(404, "NoSuchBucket")) as (store, _):
        await unavailable(CALLS[call](store, "etag null sha256"))


async def test_check_fails_for_a_missing_bucket():
    with scripted_store(lambda _: refusal(404, "NoSuchBucket")) as (store, _), pytest.raises(Unavailable):
        await store.check()


async def test_a_transient_error_is_retried():
    answers = iter([refusal(503, "SlowDown"), refusal(500, "InternalError")])
    whole = Answer(200, b"bytes", {"ETag": '"abc"'})
    with scripted_store(lambda _: next(answers, whole), time_limits=S3TimeLimits(call_seconds=DEADLINE_SECONDS)) as (
        store,
        server,
    ):
        assert await etag_of(store, 5) == f"abc null {hashlib.sha256(b'bytes').hexdigest()}"
        assert len(server.requests) == 3


async def test_retries_of_a_failing_store_are_bounded():
    with scripted_store(
        lambda _: Answer(503, b"", {"Retry-After": "3600"}), time_limits=S3TimeLimits(call_seconds=DEADLINE_SECONDS)
    ) as (
        store,
        server,
    ):
        await unavailable(store.inspect(STAGING, size_bytes=5))

        assert len(server.requests) == 3


async def test_the_body_of_an_object_with_another_size_is_not_read():
    sent: list[int] = []

    def body() -> Iterator[bytes]:
        while True:
            sent.append(1)
            yield b"x" * 65536

    with scripted_store(lambda _: Answer(200, body(), {"Content-Length": str(10**12), "ETag": '"abc"'})) as (
        store,
        server,
    ):
        with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(MediaSizeMismatch) as raised:
            await store.inspect(STAGING, size_bytes=5)

        assert (raised.value.declared_bytes, raised.value.actual_bytes) == (5, 10**12)
        assert server.hung_up.wait(DEADLINE_SECONDS)
        assert len(sent) * 65536 < 10**9


async def test_the_hash_is_of_the_stored_bytes_whatever_the_content_encoding():
    """The uploader may set any Content-Encoding: the body is never decompressed."""
    headers = {"ETag": '"abc"', "Content-Encoding": "gzip"}
    with scripted_store(lambda _: Answer(200, b"no gzip at all", headers)) as (store, _):
        blob = await store.inspect(STAGING, size_bytes=14)

        assert blob is not None
        assert (blob.sha256, blob.head) == (hashlib.sha256(b"no gzip at all").hexdigest(), b"no gzip at all")


@pytest.mark.parametrize("then", ["close", "stall", "drip"])
async def test_an_object_that_does_not_arrive_completely_is_unavailable(then: str):
    over = threading.Event()

    def body() -> Iterator[bytes]:
        yield b"x" * 100_000
        if then == "stall":
            over.wait(DEADLINE_SECONDS)
        while then == "drip" and not over.wait(0.1):
            yield b"x"

    headers = {"Content-Length": "200000", "ETag": '"abc"', "Connection": "close"}
    with scripted_store(lambda _: Answer(200, body(), headers), time_limits=S3TimeLimits(call_seconds=1.0)) as (
        store,
        _,
    ):
        try:
            await unavailable(store.inspect(STAGING, size_bytes=200_000))
        finally:
            over.set()


async def test_reading_stops_when_the_caller_is_cancelled():
    begun, over = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield b"x" * 300_000
        begun.set()
        while not over.wait(0.01):
            yield b"x" * 65536

    headers = {"Content-Length": str(10**10), "ETag": '"abc"'}
    patient = S3TimeLimits(read_seconds=DEADLINE_SECONDS, call_seconds=DEADLINE_SECONDS)
    with scripted_store(lambda _: Answer(200, body(), headers), time_limits=patient) as (store, server):
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: store.inspect(STAGING, size_bytes=10**10))
                await anyio.to_thread.run_sync(begun.wait, DEADLINE_SECONDS)
                group.cancel_scope.cancel()

            assert server.hung_up.wait(DEADLINE_SECONDS)
        finally:
            over.set()


# Memory


async def test_inspecting_a_large_object_takes_little_memory(store: S3BlobStore, s3_bucket: Bucket, tmp_path: Path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(200 * 2**20)
    await stage(store, b"x" * 2**20, "uploads/small")
    expires_at = SystemClock().now() + timedelta(minutes=15)
    url = await store.upload_url("uploads/large", size_bytes=200 * 2**20, expires_at=expires_at)

    def upload() -> None:
        with large.open("rb") as file, urllib3.PoolManager(timeout=60, retries=False) as http:
            headers = {"Content-Length": str(200 * 2**20)}
            assert http.request("PUT", url, body=file, headers=headers).status == 200

    await anyio.to_thread.run_sync(upload)
    script = textwrap.dedent(
        """
        import asyncio, resource, sys
        from cdv_adapters.blobs.s3 import S3BlobStore
        from conformance.ports.blob_subject import SystemClock

        async def main(endpoint, bucket, *keys):
            store = S3BlobStore(endpoint=endpoint, bucket=bucket, clock=SystemClock(), keys=lambda: keys)
            for name, size_bytes in (("small", 2**20), ("large", 200 * 2**20)):
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                assert await store.inspect(f"uploads/{name}", size_bytes=size_bytes)
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            store.close()
            print(grown // 1024)

        asyncio.run(main(*sys.argv[1:]))
        """
    )
    bucket = [s3_bucket.endpoint, s3_bucket.name, s3_bucket.access_key, s3_bucket.secret_key]

    done = await anyio.run_process([sys.executable, "-c", script, *bucket], stderr=subprocess.STDOUT)

    assert int(done.stdout) < 30  # MiB, of 200
