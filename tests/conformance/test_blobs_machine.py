"""The state machine of blob stores can fail: it detects the defect of each of these stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from cdv_core.ports.blobs import BlobContent, StagedBlob
from conformance.ports.blob_subject import SettableClock, Subject
from conformance.ports.blobs_machine import BOUNDED, blob_store_machine
from conformance.ports.test_blobs import Served
from tests.fakes.blobs import FakeBlobStore

FOUND = settings(BOUNDED, phases=(Phase.generate,), derandomize=True, database=None, print_blob=False)


class AnySize(FakeBlobStore):
    async def inspect(self, staging_key: str, *, size_bytes: int) -> StagedBlob | None:
        return await super().inspect(staging_key, size_bytes=len(self.objects.get(staging_key, b"")))


class Moving(FakeBlobStore):
    async def promote(self, staging_key: str, etag: str, final_key: str, **kept: Any) -> bool:
        promoted = await super().promote(staging_key, etag, final_key, **kept)
        if promoted:
            del self.objects[staging_key]
        return promoted


class KeepingTheFirst(FakeBlobStore):
    async def promote(self, staging_key: str, etag: str, final_key: str, **kept: Any) -> bool:
        before = self.objects.get(final_key)
        promoted = await super().promote(staging_key, etag, final_key, **kept)
        if before is not None:
            self.objects[final_key] = before
        return promoted


class OneType(FakeBlobStore):
    async def open(self, token: str) -> BlobContent:
        return replace(await super().open(token), mime_type="image/png")


class Endless(FakeBlobStore):
    async def upload_url(self, staging_key: str, *, size_bytes: int, expires_at: datetime) -> str:
        later = expires_at + timedelta(days=1)
        return await super().upload_url(staging_key, size_bytes=size_bytes, expires_at=later)


class ReadingUploads(FakeBlobStore):
    async def open(self, token: str) -> BlobContent:
        if token in self._uploads:
            key, _, expires_at = self._uploads[token]
            self._downloads[token] = key, "image/png", "inline", expires_at
        return await super().open(token)


@pytest.mark.parametrize("wrong", [AnySize, Moving, KeepingTheFirst, OneType, Endless, ReadingUploads])
def test_a_defective_blob_store_fails_the_state_machine(wrong: type[FakeBlobStore]):
    clock = SettableClock()

    @asynccontextmanager
    async def opened() -> AsyncIterator[Subject]:
        yield Served(wrong(clock), clock)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_state_machine_as_test(blob_store_machine(opened), settings=FOUND)
