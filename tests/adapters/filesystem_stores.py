"""A filesystem blob store under test, and helpers that upload to it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from cdv_adapters.blobs.filesystem import FilesystemBlobStore
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
