"""Downloads from the filesystem store: any byte range, and never a truncated object."""

import os
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings

from cdv_adapters.blobs.filesystem import FilesystemBlobStore
from cdv_core.errors import AssetNotFound, Unavailable
from tests.adapters.filesystem_stores import FINAL, MAX_BYTES, clock, download_token, root, stage, store
from tests.fakes.clock import FakeClock

__all__ = ["clock", "root", "store"]  # the fixtures


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 700_000), stop=st.none() | st.integers(0, 700_000))
@example(start=0, stop=None)
@example(start=0, stop=1)
@example(start=699_999, stop=700_000)
@example(start=262_144, stop=524_288)
async def test_any_byte_range_of_an_object_can_be_read(tmp_path_factory, start: int, stop: int | None):
    clock = FakeClock()
    store = FilesystemBlobStore(tmp_path_factory.getbasetemp() / "parts", clock, MAX_BYTES)
    data = bytes(range(250)) * 2800
    await stage(store, clock, data, FINAL)
    content = await store.open(await download_token(store, clock))

    read = b"".join([chunk async for chunk in content.chunks(start, stop)])

    assert content.size_bytes == 700_000
    assert read == data[start:stop]


async def test_a_missing_object_is_not_found(store: FilesystemBlobStore, clock: FakeClock):
    with pytest.raises(AssetNotFound) as raised:
        await store.open(await download_token(store, clock))

    assert raised.value.asset_id == "01K00000000000000000000001"


async def test_a_truncated_object_is_unavailable(store: FilesystemBlobStore, clock: FakeClock, root: Path):
    await stage(store, clock, b"bytes", FINAL)
    content = await store.open(await download_token(store, clock))
    os.truncate(root / "objects" / FINAL, 3)

    with pytest.raises(Unavailable):
        [chunk async for chunk in content.chunks()]
