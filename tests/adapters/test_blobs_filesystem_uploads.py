"""Uploads to the filesystem store and their promotion are atomic, whatever fails."""

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from cdv_adapters.blobs.filesystem import FilesystemBlobStore
from cdv_core.errors import MediaTooLarge, Unavailable
from tests.adapters.filesystem_stores import (
    FINAL,
    MAX_BYTES,
    STAGING,
    clock,
    files_in,
    pieces,
    root,
    stage,
    store,
    upload_token,
)
from tests.fakes.clock import FakeClock

__all__ = ["clock", "root", "store"]  # the fixtures


# Uploads


async def test_an_upload_over_the_size_limit_is_cut_off_and_changes_nothing(clock: FakeClock, root: Path):
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


async def test_an_interrupted_upload_changes_nothing(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    await stage(store, clock, b"first")

    async def broken() -> AsyncIterator[bytes]:
        yield b"oth"
        raise ConnectionResetError

    token = await upload_token(store, clock, 5)
    with pytest.raises(ConnectionResetError):
        await store.receive(token, broken())

    assert files_in(root) == {f"objects/{STAGING}"}
    assert (root / "objects" / STAGING).read_bytes() == b"first"


async def test_a_cancelled_upload_leaves_no_file(store: FilesystemBlobStore, clock: FakeClock, root: Path):
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


async def test_incomplete_uploads_of_a_killed_process_are_removed_after_a_day(
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


async def test_files_are_synced_before_the_rename_and_their_directory_after(
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

    recorded = [(step, "incoming/..." if name.startswith("incoming/") else name) for step, name in steps]
    assert recorded == [
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


async def test_a_failed_promotion_leaves_no_copy(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    await stage(store, clock, b"bytes")

    assert not await store.promote(STAGING, "0" * 64, FINAL, mime_type="image/png", disposition="inline")

    assert files_in(root) == {f"objects/{STAGING}"}


async def test_a_file_replaced_during_promotion_is_not_mixed_into_the_copy(
    store: FilesystemBlobStore, clock: FakeClock, root: Path
):
    """The open file keeps its content when another file takes its name."""
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


async def test_deleting_an_asset_removes_its_directory(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    await stage(store, clock, b"bytes", FINAL)

    await store.delete(FINAL)

    assert [path.name for path in (root / "objects" / "dev" / "did:plc:abc").iterdir()] == []
    await stage(store, clock, b"bytes", FINAL)


# The disk


@pytest.mark.parametrize("broken", ["incoming", "objects"])
async def test_a_broken_disk_is_unavailable_until_it_is_repaired(
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


async def test_check_reports_a_disk_that_cannot_be_written(
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


async def test_a_slow_disk_does_not_block_the_event_loop(store: FilesystemBlobStore, root: Path):
    """A FIFO stands for the slow disk: opening it blocks until this test, on the loop, opens it for writing."""
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
            with suppress(OSError):  # until the store opens it for reading
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
