"""The URLs of the filesystem store: what they grant, when they expire, and the key that signs them."""

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from cdv_adapters.blobs.filesystem import FilesystemBlobStore
from cdv_adapters.blobs.url_tokens import DownloadGrant, UploadGrant, UrlTokens, read_or_create_key
from cdv_core.errors import BlobUrlRefused, Unavailable
from tests.adapters.filesystem_stores import (
    FINAL,
    MAX_BYTES,
    STAGING,
    clock,
    download_token,
    files_in,
    pieces,
    root,
    stage,
    store,
    upload_token,
)
from tests.fakes.clock import FakeClock

__all__ = ["clock", "root", "store"]  # the fixtures


# URLs


def refusal(tokens: UrlTokens, token: str, purpose: type) -> str:
    with pytest.raises(BlobUrlRefused) as refused:
        tokens.verify(token, purpose)
    return refused.value.reason


async def test_a_url_token_contains_only_path_safe_characters(store: FilesystemBlobStore, clock: FakeClock):
    token = await download_token(store, clock, "dev/did:web:a%3Ab/01K/ein  Bild é+#?.png")

    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


def test_a_grant_round_trips_through_its_token(clock: FakeClock):
    tokens = UrlTokens(b"k" * 32, clock)
    expires_at = clock.now() + timedelta(seconds=1)
    upload = UploadGrant(STAGING, 5, expires_at)
    download = DownloadGrant(FINAL, "image/png", 'inline; filename="a"', expires_at)

    assert tokens.verify(tokens.sign(upload), UploadGrant) == upload
    assert tokens.verify(tokens.sign(download), DownloadGrant) == download


def test_every_modified_token_is_refused(clock: FakeClock):
    tokens = UrlTokens(b"k" * 32, clock)
    expires_at = clock.now() + timedelta(minutes=15)
    token = tokens.sign(UploadGrant(STAGING, 5, expires_at))
    payload, _, signature = token.partition(".")
    other_payload, _, other_signature = tokens.sign(UploadGrant(STAGING, 6, expires_at)).partition(".")
    foreign = UrlTokens(b"K" * 32, clock).sign(UploadGrant(STAGING, 5, expires_at))
    forgeries = {
        "",
        ".",
        "..",
        payload,
        signature,
        f"{payload}.",
        f".{signature}",
        f"{payload}.{signature}.",
        f".{payload}.{signature}",
        f"{payload}.{signature}=",
        f"{payload}=.{signature}",
        f"{payload}.{signature} ",
        f"{payload}.{signature[:-1]}",
        f"{payload}.{other_signature}",
        f"{other_payload}.{signature}",
        f"{payload}.{payload}.{signature}",
        token.upper(),
        token.replace(".", "%2E"),
        "é" + token,
        token + "\udcff",
        "\x00",
        foreign,
        *(token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in range(len(token))),
    }

    assert {refusal(tokens, forgery, UploadGrant) for forgery in forgeries} == {"not_signed_by_us"}


def test_a_token_is_valid_for_its_purpose_only(clock: FakeClock):
    tokens = UrlTokens(b"k" * 32, clock)
    expires_at = clock.now() + timedelta(minutes=15)

    assert refusal(tokens, tokens.sign(UploadGrant(FINAL, 5, expires_at)), DownloadGrant) == "for_another_purpose"
    download = DownloadGrant(STAGING, "image/png", "inline", expires_at)
    assert refusal(tokens, tokens.sign(download), UploadGrant) == "for_another_purpose"


async def test_urls_expire(store: FilesystemBlobStore, clock: FakeClock):
    await stage(store, clock, b"bytes", FINAL)
    upload = await upload_token(store, clock, 5)
    download = await download_token(store, clock)
    clock.advance(5 * 60 - 0.000001)
    await store.open(download)
    clock.advance(0.000001)
    with pytest.raises(BlobUrlRefused) as refused:
        await store.open(download)
    assert refused.value.reason == "expired"
    clock.advance(10 * 60 - 0.000001)
    await store.receive(upload, pieces(b"bytes"))
    clock.advance(0.000001)
    with pytest.raises(BlobUrlRefused) as refused:
        await store.receive(upload, pieces(b"other"))
    assert refused.value.reason == "expired"


async def test_a_refused_upload_reads_and_writes_nothing(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"bytes")
        yield b"bytes"

    token = await download_token(store, clock)
    with pytest.raises(BlobUrlRefused):
        await store.receive(token, body())

    assert read == []
    assert files_in(root) == set()


async def test_urls_remain_valid_after_a_restart(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    token = await upload_token(store, clock, 5)

    await FilesystemBlobStore(root, clock, MAX_BYTES).receive(token, pieces(b"bytes"))

    assert await store.inspect(STAGING, size_bytes=5) is not None


# The key


def test_concurrent_processes_create_one_signing_key(tmp_path: Path):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from cdv_adapters.blobs.url_tokens import read_or_create_key

        print("ready", flush=True)
        sys.stdin.readline()
        print(read_or_create_key(Path(sys.argv[1])).hex())
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path / "url.key")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    keys = {process.communicate()[0].strip() for process in processes}

    assert keys == {(tmp_path / "url.key").read_bytes().hex()}
    assert [path.name for path in tmp_path.iterdir()] == ["url.key"]


def test_the_signing_key_is_random_and_has_owner_only_permissions(tmp_path: Path):
    first, second = tmp_path / "first.key", tmp_path / "second.key"

    assert read_or_create_key(first) != read_or_create_key(second)

    assert len(read_or_create_key(first)) == 32
    assert first.stat().st_mode & 0o777 == 0o600


def test_a_partially_written_key_of_a_killed_process_is_ignored(tmp_path: Path):
    (tmp_path / "url.new").write_bytes(b"half")

    assert len(read_or_create_key(tmp_path / "url.key")) == 32


async def test_a_corrupt_signing_key_is_reported_and_not_replaced(store: FilesystemBlobStore, root: Path):
    root.mkdir()
    (root / "url-signing.key").write_bytes(b"short")

    with pytest.raises(Unavailable) as raised:
        await store.check()

    assert "url-signing.key holds 5 bytes" in str(raised.value.__cause__)
    assert (root / "url-signing.key").read_bytes() == b"short"
