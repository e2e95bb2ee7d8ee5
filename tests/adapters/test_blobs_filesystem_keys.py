"""Object keys of the filesystem store: none leads out of its directory."""

from pathlib import Path

import pytest

from cdv_adapters.blobs.filesystem import FilesystemBlobStore
from tests.adapters.filesystem_stores import (
    FINAL,
    MAX_BYTES,
    STAGING,
    clock,
    download_token,
    files_in,
    root,
    stage,
    store,
)
from tests.fakes.clock import FakeClock

__all__ = ["clock", "root", "store"]  # the fixtures


async def test_the_media_directory_has_owner_only_permissions(store: FilesystemBlobStore, root: Path):
    await store.check()

    assert root.stat().st_mode & 0o777 == 0o700


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
async def test_a_symlink_out_of_the_store_is_not_followed(
    link: str, store: FilesystemBlobStore, clock: FakeClock, root: Path, tmp_path: Path
):
    await store.check()
    outside = tmp_path / "outside"
    (outside / "did:plc:abc" / "01K00000000000000000000001").mkdir(parents=True)
    for name in ("01K00000000000000000000001/a.png", "did:plc:abc/01K00000000000000000000001/a.png", "secret"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_bytes(b"bytes")
    path = root / "objects" / link
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside / "secret" if link == STAGING else outside)
    key = STAGING if link.startswith("uploads") else FINAL

    with pytest.raises(ValueError, match="leads elsewhere"):
        await store.inspect(key, size_bytes=5)
    with pytest.raises(ValueError, match="leads elsewhere"):
        await stage(store, clock, b"other", key)
    with pytest.raises(ValueError, match="leads elsewhere"):
        await store.delete(key)

    assert {path.read_bytes() for path in outside.rglob("*") if path.is_file()} == {b"bytes"}


async def test_a_symlinked_root_directory_is_accepted(clock: FakeClock, tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "media").symlink_to(tmp_path / "disk")
    store = FilesystemBlobStore(tmp_path / "media", clock, MAX_BYTES)

    await stage(store, clock, b"bytes")

    assert await store.inspect(STAGING, size_bytes=5) is not None
