"""Files as a blob store: what the contract that all stores share does not reach."""

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings

from cdv_adapters.blobs.filesystem import FilesystemBlobStore
from cdv_adapters.blobs.url_tokens import DownloadGrant, UploadGrant, UrlTokens, read_or_create_key
from cdv_core.errors import AssetNotFound, BlobUrlRefused, MediaTooLarge, Unavailable
from tests.fakes.clock import FakeClock

MAX_BYTES = 200 * 2**20
STAGING = "uploads/01K00000000000000000000001"
FINAL = "dev/did:plc:abc/01K00000000000000000000001/a.png"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "media"


@pytest.fixture
def store(root: Path, clock: FakeClock) -> FilesystemBlobStore:
    return FilesystemBlobStore(root, clock, MAX_BYTES)


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def upload_token(store: FilesystemBlobStore, clock: FakeClock, size_bytes: int, key: str = STAGING) -> str:
    url = await store.upload_url(key, size_bytes=size_bytes, expires_at=clock.now() + timedelta(minutes=15))
    assert url.startswith("/v1/blobs/upload/")
    return url.rpartition("/")[2]


async def download_token(store: FilesystemBlobStore, clock: FakeClock, key: str = FINAL) -> str:
    expires_at = clock.now() + timedelta(minutes=5)
    url = await store.download_url(key, mime_type="image/png", disposition="inline", expires_at=expires_at)
    assert url.startswith("/v1/blobs/download/")
    return url.rpartition("/")[2]


async def stage(store: FilesystemBlobStore, clock: FakeClock, data: bytes, key: str = STAGING) -> None:
    await store.receive(await upload_token(store, clock, len(data), key), pieces(data))


def files_in(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} - {"url-signing.key"}


# URLs


def refusal(tokens: UrlTokens, token: str, purpose: type) -> str:
    with pytest.raises(BlobUrlRefused) as refused:
        tokens.verify(token, purpose)
    return refused.value.reason


async def test_a_url_stands_in_a_path_as_it_is(store: FilesystemBlobStore, clock: FakeClock):
    token = await download_token(store, clock, "dev/did:web:a%3Ab/01K/ein  Bild é+#?.png")

    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


def test_a_grant_survives_its_token(clock: FakeClock):
    tokens = UrlTokens(b"k" * 32, clock)
    expires_at = clock.now() + timedelta(seconds=1)
    upload = UploadGrant(STAGING, 5, expires_at)
    download = DownloadGrant(FINAL, "image/png", 'inline; filename="a"', expires_at)

    assert tokens.verify(tokens.sign(upload), UploadGrant) == upload
    assert tokens.verify(tokens.sign(download), DownloadGrant) == download


def test_no_change_to_a_token_goes_unseen(clock: FakeClock):
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


def test_a_token_is_good_for_its_purpose_only(clock: FakeClock):
    tokens = UrlTokens(b"k" * 32, clock)
    expires_at = clock.now() + timedelta(minutes=15)

    assert refusal(tokens, tokens.sign(UploadGrant(FINAL, 5, expires_at)), DownloadGrant) == "for_another_purpose"
    download = DownloadGrant(STAGING, "image/png", "inline", expires_at)
    assert refusal(tokens, tokens.sign(download), UploadGrant) == "for_another_purpose"


async def test_urls_die_with_their_time(store: FilesystemBlobStore, clock: FakeClock):
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


async def test_urls_outlive_a_restart(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    token = await upload_token(store, clock, 5)

    await FilesystemBlobStore(root, clock, MAX_BYTES).receive(token, pieces(b"bytes"))

    assert await store.inspect(STAGING, size_bytes=5) is not None


# The key


def test_processes_that_start_together_sign_with_one_key(tmp_path: Path):
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


def test_the_key_is_its_owners_only_and_no_constant(tmp_path: Path):
    first, second = tmp_path / "first.key", tmp_path / "second.key"

    assert read_or_create_key(first) != read_or_create_key(second)

    assert len(read_or_create_key(first)) == 32
    assert first.stat().st_mode & 0o777 == 0o600


def test_a_key_half_written_by_a_killed_process_is_not_used(tmp_path: Path):
    (tmp_path / "url.new").write_bytes(b"half")

    assert len(read_or_create_key(tmp_path / "url.key")) == 32


async def test_a_damaged_key_is_named_and_not_replaced(store: FilesystemBlobStore, root: Path):
    root.mkdir()
    (root / "url-signing.key").write_bytes(b"short")

    with pytest.raises(Unavailable) as raised:
        await store.check()

    assert "url-signing.key holds 5 bytes" in str(raised.value.__cause__)
    assert (root / "url-signing.key").read_bytes() == b"short"


async def test_the_directory_is_its_owners_only(store: FilesystemBlobStore, root: Path):
    await store.check()

    assert root.stat().st_mode & 0o777 == 0o700


# Keys of objects

HOSTILE_KEYS = [
    "",
    "/",
    "..",
    "../outside",
    "uploads/../../outside",
    "uploads/..",
    "uploads/.",
    "uploads/./x",
    "uploads//x",
    "/etc/passwd",
    "uploads/",
    "uploads/\x00",
    "uploads/" + "x" * 256,
    "uploads/" + "é" * 128,
    "uploads/...",
]


@pytest.mark.parametrize("key", HOSTILE_KEYS)
async def test_a_hostile_key_touches_no_file(key: str, store: FilesystemBlobStore, clock: FakeClock, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"bytes")
    await stage(store, clock, b"bytes")
    blob = await store.inspect(STAGING, size_bytes=5)
    assert blob is not None
    before = files_in(tmp_path)

    with pytest.raises(ValueError, match="not an object key"):
        await store.inspect(key, size_bytes=5)
    with pytest.raises(ValueError, match="not an object key"):
        await store.delete(key)
    with pytest.raises(ValueError, match="not an object key"):
        await stage(store, clock, b"other", key)
    with pytest.raises(ValueError, match="not an object key"):
        await store.promote(STAGING, blob.etag, key, mime_type="a/b", disposition="inline")
    with pytest.raises(ValueError, match="not an object key"):
        await store.open(await download_token(store, clock, key))

    assert files_in(tmp_path) == before
    assert outside.read_bytes() == b"bytes"


@pytest.mark.parametrize("link", ["uploads", STAGING, "dev", "dev/did:plc:abc"])
async def test_a_link_leads_nowhere(
    link: str, store: FilesystemBlobStore, clock: FakeClock, root: Path, tmp_path: Path
):
    await store.check()
    outside = tmp_path / "outside"
    (outside / "did:plc:abc" / "01K00000000000000000000001").mkdir(parents=True)
    for name in ("01K00000000000000000000001/a.png", "did:plc:abc/01K00000000000000000000001/a.png", "secret"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_bytes(b"bytes")
    place = root / "objects" / link
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(outside / "secret" if link == STAGING else outside)
    key = STAGING if link.startswith("uploads") else FINAL

    with pytest.raises(ValueError, match="leads elsewhere"):
        await store.inspect(key, size_bytes=5)
    with pytest.raises(ValueError, match="leads elsewhere"):
        await stage(store, clock, b"other", key)
    with pytest.raises(ValueError, match="leads elsewhere"):
        await store.delete(key)

    assert {path.read_bytes() for path in outside.rglob("*") if path.is_file()} == {b"bytes"}


async def test_a_linked_root_is_the_operators_choice(clock: FakeClock, tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "media").symlink_to(tmp_path / "disk")
    store = FilesystemBlobStore(tmp_path / "media", clock, MAX_BYTES)

    await stage(store, clock, b"bytes")

    assert await store.inspect(STAGING, size_bytes=5) is not None


# Uploads


async def test_an_upload_over_what_is_taken_is_cut_and_changes_nothing(clock: FakeClock, root: Path):
    store = FilesystemBlobStore(root, clock, 5)
    await stage(store, clock, b"first")
    sent: list[bytes] = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            sent.append(b"xxx")
            yield b"xxx"

    token = await upload_token(store, clock, 4)
    with pytest.raises(MediaTooLarge) as raised:
        await store.receive(token, endless())

    assert (raised.value.size_bytes, raised.value.max_bytes, len(sent)) == (6, 5, 2)
    assert files_in(root) == {f"objects/{STAGING}"}
    assert (root / "objects" / STAGING).read_bytes() == b"first"


async def test_an_upload_that_breaks_off_changes_nothing(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    await stage(store, clock, b"first")

    async def broken() -> AsyncIterator[bytes]:
        yield b"oth"
        raise ConnectionResetError

    token = await upload_token(store, clock, 5)
    with pytest.raises(ConnectionResetError):
        await store.receive(token, broken())

    assert files_in(root) == {f"objects/{STAGING}"}
    assert (root / "objects" / STAGING).read_bytes() == b"first"


async def test_a_cancelled_upload_leaves_nothing(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    begun = anyio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"by"
        begun.set()
        await anyio.sleep_forever()

    token = await upload_token(store, clock, 5)
    async with anyio.create_task_group() as group:
        group.start_soon(store.receive, token, slow())
        await begun.wait()
        assert len(files_in(root)) == 1
        group.cancel_scope.cancel()

    assert files_in(root) == set()


async def test_what_a_killed_process_left_is_removed_a_day_later(
    store: FilesystemBlobStore, clock: FakeClock, root: Path
):
    await store.check()
    for name, age_seconds in (("old", 25 * 3600), ("young", 60)):
        path = root / "incoming" / name
        path.write_bytes(b"half")
        written_at = path.stat().st_mtime - age_seconds
        os.utime(path, (written_at, written_at))

    await FilesystemBlobStore(root, clock, MAX_BYTES).check()

    assert files_in(root) == {"incoming/young"}


async def test_files_are_synced_before_they_are_named_and_their_names_after(
    store: FilesystemBlobStore, clock: FakeClock, root: Path, monkeypatch: pytest.MonkeyPatch
):
    await store.check()
    steps: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.rename

    def recorded_fsync(descriptor: int) -> None:
        steps.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(root))))
        fsync(descriptor)

    def recorded_rename(path: Path, target: Path) -> Path:
        steps.append(("rename", str(target.relative_to(root))))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "rename", recorded_rename)

    await stage(store, clock, b"bytes")
    blob = await store.inspect(STAGING, size_bytes=5)
    assert blob is not None
    await store.promote(STAGING, blob.etag, FINAL, mime_type="image/png", disposition="inline")

    told = [(step, "incoming/..." if name.startswith("incoming/") else name) for step, name in steps]
    assert told == [
        ("sync", "incoming/..."),
        ("sync", "objects"),
        ("rename", f"objects/{STAGING}"),
        ("sync", "objects/uploads"),
        ("sync", "incoming/..."),
        ("sync", "objects"),
        ("sync", "objects/dev"),
        ("sync", "objects/dev/did:plc:abc"),
        ("rename", f"objects/{FINAL}"),
        ("sync", "objects/dev/did:plc:abc/01K00000000000000000000001"),
    ]


# Promotion


async def test_a_promotion_that_fails_leaves_no_copy(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    await stage(store, clock, b"bytes")

    assert not await store.promote(STAGING, "0" * 64, FINAL, mime_type="image/png", disposition="inline")

    assert files_in(root) == {f"objects/{STAGING}"}


async def test_a_file_replaced_while_it_is_copied_is_not_mixed(
    store: FilesystemBlobStore, clock: FakeClock, root: Path
):
    """The old file stays whole under the copier's hands, whatever takes its name."""
    data = b"a" * 3_000_000
    await stage(store, clock, data)
    blob = await store.inspect(STAGING, size_bytes=len(data))
    assert blob is not None
    outcomes: list[bool] = []

    async def promote() -> None:
        outcomes.append(await store.promote(STAGING, blob.etag, FINAL, mime_type="image/png", disposition="inline"))

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(promote)
            group.start_soon(stage, store, clock, b"b" * 3_000_000)

    final = root / "objects" / FINAL
    assert final.exists() == any(outcomes)
    assert not final.exists() or final.read_bytes() == data
    assert files_in(root) <= {f"objects/{STAGING}", f"objects/{FINAL}"}


async def test_deleting_an_asset_takes_its_directory_along(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    await stage(store, clock, b"bytes", FINAL)

    await store.delete(FINAL)

    assert [path.name for path in (root / "objects" / "dev" / "did:plc:abc").iterdir()] == []
    await stage(store, clock, b"bytes", FINAL)


# Downloads


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 700_000), stop=st.none() | st.integers(0, 700_000))
@example(start=0, stop=None)
@example(start=0, stop=1)
@example(start=699_999, stop=700_000)
@example(start=262_144, stop=524_288)
async def test_any_part_of_an_object_can_be_read(tmp_path_factory, start: int, stop: int | None):
    clock = FakeClock()
    store = FilesystemBlobStore(tmp_path_factory.getbasetemp() / "parts", clock, MAX_BYTES)
    data = bytes(range(250)) * 2800
    await stage(store, clock, data, FINAL)
    content = await store.open(await download_token(store, clock))

    read = b"".join([chunk async for chunk in content.chunks(start, stop)])

    assert content.size_bytes == 700_000
    assert read == data[start:stop]


async def test_an_object_that_is_gone_is_not_found(store: FilesystemBlobStore, clock: FakeClock):
    with pytest.raises(AssetNotFound) as raised:
        await store.open(await download_token(store, clock))

    assert raised.value.asset_id == "01K00000000000000000000001"


async def test_an_object_cut_short_is_not_given_out_as_whole(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    await stage(store, clock, b"bytes", FINAL)
    content = await store.open(await download_token(store, clock))
    os.truncate(root / "objects" / FINAL, 3)

    with pytest.raises(Unavailable):
        [chunk async for chunk in content.chunks()]


# The disk


@pytest.mark.parametrize("broken", ["incoming", "objects"])
async def test_a_broken_disk_is_unavailable_and_heals(
    broken: str, store: FilesystemBlobStore, clock: FakeClock, root: Path
):
    token = await upload_token(store, clock, 5)
    (root / broken).rmdir()
    (root / broken).write_bytes(b"not a directory")

    with pytest.raises(Unavailable) as raised:
        await store.receive(token, pieces(b"bytes"))
    assert isinstance(raised.value.__cause__, OSError)

    (root / broken).unlink()
    (root / broken).mkdir()
    await store.receive(token, pieces(b"bytes"))


async def test_readiness_tells_a_disk_that_cannot_be_written(
    store: FilesystemBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
):
    await store.check()
    assert files_in(root) == set()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Unavailable) as raised:
            await store.check()
    assert isinstance(raised.value.__cause__, OSError)
    assert files_in(root) == set()
    await store.check()


async def test_a_slow_disk_does_not_hold_the_event_loop(store: FilesystemBlobStore, root: Path):
    """A pipe stands for the slow disk: opening it waits for a writer, and that is us, on the loop."""
    await store.check()
    (root / "objects" / "uploads").mkdir()
    os.mkfifo(root / "objects" / STAGING)
    outcomes: list[bool] = []

    async def promote() -> None:
        outcomes.append(await store.promote(STAGING, "0" * 64, FINAL, mime_type="a/b", disposition="inline"))

    async with anyio.create_task_group() as group:
        group.start_soon(promote)
        writer = None
        while writer is None:
            await anyio.lowlevel.checkpoint()
            with suppress(OSError):  # until somebody reads
                writer = os.open(root / "objects" / STAGING, os.O_WRONLY | os.O_NONBLOCK)
        os.close(writer)

    assert outcomes == [False]


def test_inspecting_and_copying_a_large_object_takes_little_memory(tmp_path: Path):
    script = textwrap.dedent(
        """
        import asyncio, hashlib, resource, sys
        from pathlib import Path
        from cdv_adapters.blobs.filesystem import FilesystemBlobStore
        from tests.fakes.clock import FakeClock

        async def main(root):
            store = FilesystemBlobStore(root, FakeClock(), 200 * 2**20)
            await store.check()
            (root / "objects" / "uploads").mkdir()
            for name, size_bytes in (("small", 2**20), ("large", 200 * 2**20)):
                with (root / "objects" / "uploads" / name).open("wb") as file:
                    file.truncate(size_bytes)
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                blob = await store.inspect(f"uploads/{name}", size_bytes=size_bytes)
                assert await store.promote(
                    f"uploads/{name}", blob.etag, f"dev/d/{name}/x", mime_type="a/b", disposition="inline"
                )
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(grown // 1024)

        asyncio.run(main(Path(sys.argv[1])))
        """
    )

    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)

    assert int(done.stdout) < 30  # MiB, of 200
