"""The S3 store's copies, signed URLs and credentials."""

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from minio.error import S3Error

from cdv_adapters.blobs.s3 import S3BlobStore, S3TimeLimits
from cdv_core.errors import Unavailable
from conformance.ports.blob_subject import SystemClock
from tests.adapters.s3_stores import (
    DEADLINE_SECONDS,
    FINAL,
    STAGING,
    etag_of,
    open_store,
    promote,
    request,
    scripted_store,
    stage,
    unavailable,
)
from tests.fakes.clock import FakeClock
from tests.fakes.s3 import Answer, ReceivedRequest, ScriptedS3, refusal
from tests.servers import Bucket, FaultProxy


@pytest.fixture
def store(s3_bucket: Bucket) -> Iterator[S3BlobStore]:
    with open_store(s3_bucket.endpoint, s3_bucket) as store:
        yield store


# Copies

COPIED = Answer(200, b"<CopyObjectResult><ETag>abc</ETag></CopyObjectResult>")


async def test_promote_copies_exactly_the_inspected_version():
    def answer(request: ReceivedRequest) -> Answer:
        if request.method == "PUT":
            return COPIED
        return Answer(200, b"bytes", {"ETag": '"abc"', "x-amz-version-id": "v.1/2"})

    with scripted_store(answer) as (store, server):
        assert await promote(store, await etag_of(store, 5))

        read, copy = server.requests
        assert read.method == "GET"
        assert (copy.method, copy.path) == ("PUT", "/bucket/dev/did%3Aplc%3Aabc/01K00000000000000000000001/a.png")
        assert copy.headers["x-amz-copy-source"] == f"/bucket/{STAGING}?versionId=v.1/2"
        assert copy.headers["x-amz-copy-source-if-match"] == "abc"
        assert copy.headers["x-amz-metadata-directive"] == "REPLACE"
        assert copy.headers["content-type"] == "image/png"
        assert copy.headers["content-disposition"] == "inline"


async def test_promote_copies_the_inspected_version_after_a_later_upload_and_delete(versioned_s3_bucket: Bucket):
    with open_store(versioned_s3_bucket.endpoint, versioned_s3_bucket) as store:
        await stage(store, b"proof")
        etag = await etag_of(store, 5)
        await stage(store, b"other")
        await store.delete(STAGING)

        assert await promote(store, etag)

        expires_at = SystemClock().now() + timedelta(minutes=5)
        url = await store.download_url(FINAL, mime_type="image/png", disposition="inline", expires_at=expires_at)
        assert request("GET", url).data == b"proof"


@pytest.mark.parametrize("version", [{}, {"x-amz-version-id": "null"}])
async def test_without_versioning_promote_copies_via_a_private_intermediate_object(version: dict[str, str]):
    def answer(request: ReceivedRequest) -> Answer:
        return COPIED if request.method == "PUT" else Answer(200, b"bytes", {"ETag": '"abc"', **version})

    with scripted_store(answer) as (store, server):
        assert await promote(store, await etag_of(store, 5))

        seal, copy = (request for request in server.requests if request.method == "PUT")
        assert seal.headers["x-amz-copy-source"] == f"/bucket/{STAGING}"
        assert seal.headers["x-amz-copy-source-if-match"] == "abc"
        assert copy.headers["x-amz-copy-source"] == seal.path.partition("?")[0]
        assert server.requests[-1].method == "DELETE"
        assert server.requests[-1].path == seal.path


async def test_an_upload_between_compare_and_copy_is_not_promoted():
    """On a store whose conditional copy is not atomic, an upload in between replaces the verified bytes."""

    def answer(request: ReceivedRequest) -> Answer:
        if request.method == "PUT":
            return COPIED
        return Answer(200, b"bytes" if request.path.endswith(STAGING) else b"other", {"ETag": '"abc"'})

    with scripted_store(answer) as (store, server):
        assert not await promote(store, await etag_of(store, 5))

        # Only verified bytes may reach the final key; the unverified copy is removed.
        puts = [request.path for request in server.requests if request.method == "PUT"]
        assert len(puts) == 1
        assert puts[0].startswith(f"/bucket/{STAGING}.")
        assert (server.requests[-1].method, server.requests[-1].path) == ("DELETE", puts[0])


@pytest.mark.parametrize(
    "refused", [refusal(412, "PreconditionFailed"), refusal(404, "NoSuchKey"), refusal(404, "NoSuchVersion")]
)
async def test_promoting_an_object_that_has_gone_or_changed_returns_false(refused: Answer):
    with scripted_store(lambda request: refused if request.method == "PUT" else Answer(200, b"bytes")) as (store, _):
        assert not await promote(store, "abc null sha256")


async def test_a_copy_error_in_a_200_response_is_unavailable():
    """S3 sends the status 200 before the copy is complete; an error is then in the body."""
    failed = refusal(200, "InternalError")
    with scripted_store(lambda request: failed if request.method == "PUT" else Answer(200, b"bytes")) as (store, _):
        await unavailable(promote(store, "abc null sha256"))


# URLs


async def test_urls_are_signed_without_contacting_the_store(s3_bucket: Bucket):
    with ScriptedS3(lambda _: Answer()) as gone:
        pass
    with open_store(gone.url, s3_bucket, public_endpoint="https://media.example", region="eu-west-3") as store:
        expires_at = SystemClock().now() + timedelta(minutes=15)
        upload = urlsplit(await store.upload_url(STAGING, size_bytes=5, expires_at=expires_at))
        download = urlsplit(
            await store.download_url(FINAL, mime_type="a/b", disposition="inline", expires_at=expires_at)
        )

    assert (upload.scheme, upload.netloc, upload.path) == ("https", "media.example", f"/{s3_bucket.name}/{STAGING}")
    query = parse_qs(upload.query)
    assert "/eu-west-3/s3/" in query["X-Amz-Credential"][0]
    assert 890 <= int(query["X-Amz-Expires"][0]) <= 900
    assert parse_qs(download.query)["response-content-disposition"] == ["inline"]


async def test_no_url_is_issued_while_the_store_is_down():
    answers, now = [Answer(200), Answer(503), Answer(200)], 1000.0
    with scripted_store(
        lambda _: answers[0], time_limits=S3TimeLimits(probe_valid_seconds=5.0), monotonic=lambda: now
    ) as (store, server):

        async def urls() -> None:
            expires_at = SystemClock().now() + timedelta(minutes=15)
            await store.upload_url(STAGING, size_bytes=5, expires_at=expires_at)
            await store.download_url(FINAL, mime_type="a/b", disposition="inline", expires_at=expires_at)

        await asyncio.gather(*(urls() for _ in range(5)))
        assert [request.method for request in server.requests] == ["HEAD"]  # one probe for all
        answers.pop(0)
        now += 5.0
        await urls()  # the probe is still valid
        now += 0.25
        await unavailable(urls())
        await unavailable(urls())
        answers.pop(0)
        await urls()  # without waiting


async def test_urls_are_issued_even_if_the_bucket_probe_is_forbidden():
    with scripted_store(lambda _: Answer(403), time_limits=S3TimeLimits(probe_valid_seconds=5.0)) as (store, server):
        expires_at = SystemClock().now() + timedelta(minutes=15)
        for _ in range(2):
            assert await store.upload_url(STAGING, size_bytes=5, expires_at=expires_at)
        await unavailable(store.check())
        assert [request.method for request in server.requests] == ["HEAD", "HEAD"]


async def test_a_cancelled_caller_does_not_cancel_the_shared_probe():
    probed, proceed = threading.Event(), threading.Event()

    def wait(_: ReceivedRequest) -> Answer:
        probed.set()
        assert proceed.wait(DEADLINE_SECONDS)
        return Answer(200)

    with scripted_store(wait, time_limits=S3TimeLimits(probe_valid_seconds=5.0)) as (store, server):
        expires_at = SystemClock().now() + timedelta(minutes=15)
        first, second = (
            asyncio.create_task(store.upload_url(STAGING, size_bytes=5, expires_at=expires_at)) for _ in range(2)
        )
        await asyncio.to_thread(probed.wait, DEADLINE_SECONDS)
        first.cancel()
        proceed.set()
        assert await second
        assert len(server.requests) == 1


async def test_urls_use_the_configured_public_endpoint(s3_bucket: Bucket):
    with (
        FaultProxy(s3_bucket.endpoint) as proxy,
        open_store(s3_bucket.endpoint, s3_bucket, public_endpoint=proxy.url) as store,
    ):
        url = await stage(store, b"bytes")
        assert url.startswith(proxy.url)
        assert await etag_of(store, 5)


async def test_an_upload_url_is_valid_for_one_key_one_method_and_until_it_expires(
    store: S3BlobStore, s3_bucket: Bucket
):
    url = await stage(store, b"bytes")
    other = STAGING[:-1] + "2"

    assert request("GET", url).status == 403
    assert request("DELETE", url).status == 403
    assert request("PUT", url.replace(STAGING, other), b"other").status == 403
    assert request("PUT", url.replace(STAGING, "dev/x"), b"other").status == 403
    assert request("PUT", url.replace("X-Amz-Expires=8", "X-Amz-Expires=9"), b"other").status == 403
    assert request("PUT", url.partition("?")[0], b"other").status == 403
    assert request("GET", url.partition("?")[0]).status == 403
    clock = FakeClock(SystemClock().now() - timedelta(hours=1))
    with open_store(s3_bucket.endpoint, s3_bucket, clock=clock) as past:
        expired = await past.upload_url(STAGING, size_bytes=5, expires_at=clock.now() + timedelta(minutes=15))
    assert request("PUT", expired, b"other").status == 403

    blob = await store.inspect(STAGING, size_bytes=5)
    assert blob is not None
    assert blob.head == b"bytes"
    assert await store.inspect(other, size_bytes=5) is None


# Keys


async def test_rotated_keys_are_read_again_when_the_store_refuses_the_old_ones():
    current = ["old"]

    def answer(request: ReceivedRequest) -> Answer:
        known = f"Credential={current[0]}/" in request.headers["authorization"]
        none = Answer(200, b"<ListBucketResult><Name>bucket</Name></ListBucketResult>")
        return (none if request.method == "GET" else Answer(200)) if known else refusal(403, "InvalidAccessKeyId")

    async def keys() -> tuple[str, str]:
        return current[0], "secret"

    with scripted_store(answer, keys=keys) as (store, server):
        await store.check()
        current[0] = "new"
        await store.delete(STAGING)

    assert [request.method for request in server.requests] == ["HEAD", "DELETE", "DELETE", "GET"]


async def test_wrong_keys_are_unavailable_until_they_are_corrected(s3_bucket: Bucket):
    keys = [(s3_bucket.access_key, "the wrong secret")]
    with open_store(s3_bucket.endpoint, s3_bucket, keys=lambda: keys[-1]) as store:
        assert isinstance(await unavailable(store.check()), S3Error)
        keys.append((s3_bucket.access_key, s3_bucket.secret_key))
        await store.check()
        assert await store.inspect(STAGING, size_bytes=5) is None


async def test_keys_that_stay_refused_are_retried_once():
    read: list[int] = []

    def keys() -> tuple[str, str]:
        read.append(1)
        return "access", f"secret {len(read)}"

    with scripted_store(lambda _: refusal(403, "InvalidAccessKeyId"), keys=keys) as (store, server):
        await unavailable(store.inspect(STAGING, size_bytes=5))

        assert (len(read), len(server.requests)) == (2, 2)


async def test_keys_are_cached_between_calls(s3_bucket: Bucket):
    read: list[int] = []

    def keys() -> tuple[str, str]:
        read.append(1)
        return s3_bucket.access_key, s3_bucket.secret_key

    with open_store(s3_bucket.endpoint, s3_bucket, keys=keys) as store:
        for _ in range(3):
            await stage(store, b"bytes")
            await store.check()

    assert len(read) == 1


async def test_a_secret_source_outage_is_unavailable_only_before_the_first_read():
    down = [True]

    def keys() -> tuple[str, str]:
        if down[0]:
            raise Unavailable("secret_source")
        return "access", "secret"

    with scripted_store(lambda _: Answer(200), keys=keys, time_limits=S3TimeLimits(keys_seconds=0.0)) as (store, _):
        with pytest.raises(Unavailable) as raised:
            await store.check()
        assert raised.value.dependency == "secret_source"

        down[0] = False
        await store.check()
        down[0] = True
        await store.check()


@pytest.mark.parametrize("keys", [("", "secret"), ("access", "")])
async def test_an_empty_key_is_unavailable(keys: tuple[str, str]):
    with scripted_store(lambda _: Answer(200), keys=lambda: keys) as (store, _):
        await unavailable(store.check())
        await unavailable(store.upload_url(STAGING, size_bytes=5, expires_at=SystemClock().now()))


PLATFORM = (
    "AWS_ACCESS_KEY_ID",
    "AWS_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
)


@pytest.fixture
def platform_store(s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3BlobStore]:
    """A store without configured keys, in an environment without AWS credentials."""
    for name in PLATFORM:
        monkeypatch.delenv(name, raising=False)
    # So that the metadata service's time limit is the one that takes effect.
    with open_store(
        s3_bucket.endpoint, s3_bucket, keys=None, time_limits=S3TimeLimits(call_seconds=2 * DEADLINE_SECONDS)
    ) as store:
        yield store


async def test_without_configured_keys_the_environment_credentials_are_used(
    platform_store: S3BlobStore, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_bucket.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_bucket.secret_key)

    await stage(platform_store, b"bytes")
    await platform_store.check()


async def test_without_configured_keys_the_container_role_credentials_are_used(
    platform_store: S3BlobStore, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    role = (
        f'{{"AccessKeyId": "{s3_bucket.access_key}", "SecretAccessKey": "{s3_bucket.secret_key}",'
        ' "Token": "", "Expiration": "2099-01-01T00:00:00Z"}'
    )
    with ScriptedS3(lambda _: Answer(200, role.encode())) as metadata:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}/role")

        await stage(platform_store, b"bytes")
        await platform_store.check()

    assert [request.path for request in metadata.requests] == ["/role"]


@pytest.mark.parametrize("answer", [Answer(200, b"{}"), Answer(200, b"["), Answer(404), Answer(500)])
async def test_a_platform_without_credentials_is_unavailable(
    answer: Answer, platform_store: S3BlobStore, monkeypatch: pytest.MonkeyPatch
):
    with ScriptedS3(lambda _: answer) as metadata:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}/role")

        await unavailable(platform_store.check())


async def test_a_hanging_metadata_service_is_unavailable_within_a_bounded_time(
    platform_store: S3BlobStore, monkeypatch: pytest.MonkeyPatch
):
    over = threading.Event()

    def hang(_: ReceivedRequest) -> Answer:
        over.wait(2 * DEADLINE_SECONDS)
        return Answer(500)

    with ScriptedS3(hang) as metadata:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{metadata.url}/role")
        try:
            await unavailable(
                platform_store.upload_url(STAGING, size_bytes=5, expires_at=SystemClock().now() + timedelta(minutes=1))
            )
        finally:
            over.set()
