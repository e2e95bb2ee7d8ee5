"""A state machine for blob stores: any sequence of operations, compared with a dictionary as the model."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, precondition, rule

from cdv_core.domain.limits import MAGIC_BYTES
from cdv_core.domain.media import Asset, content_disposition, parse_filename
from cdv_core.errors import BlobUrlRefused, InvalidField, MediaSizeMismatch, MediaTooLarge
from conformance.ports.blob_subject import (
    DOWNLOAD_LIFE,
    ENV,
    TYPES,
    UPLOAD_LIFE,
    Download,
    OpenSubject,
    SettableClock,
    Uploads,
    asset_named,
)
from conformance.strategies import DIDS, TEXTS

BOUNDED = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _is_filename(text: str) -> bool:
    try:
        parse_filename(text)
    except InvalidField:
        return False
    return True


_NUMBERS = itertools.count(1000)
_FILENAMES = st.none() | (st.text(min_size=1, max_size=60) | TEXTS).filter(_is_filename)
# The largest sizes: as many bytes as an inspection returns, and one more.
_SIZES = st.integers(1, 5) | st.sampled_from([MAGIC_BYTES, MAGIC_BYTES + 1])
# Few different contents, so that equal uploads are frequent.
_BYTES = st.sampled_from(b"ab")


class BlobStoreMachine(RuleBasedStateMachine):
    """After any sequence of uploads, inspections, copies and deletions, the store holds what the model holds."""

    assets = Bundle("assets")
    urls = Bundle("urls")
    blobs = Bundle("blobs")

    opened_by: ClassVar[OpenSubject]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._exits = AsyncExitStack()
        self._subject = self._runner.run(self._exits.enter_async_context(type(self).opened_by()))
        self._uploads = Uploads(self._subject)
        self._staged: dict[Asset, bytes] = {}
        self._final: dict[Asset, bytes] = {}

    @initialize(
        target=assets,
        described=st.lists(st.tuples(DIDS, _FILENAMES, st.sampled_from(TYPES), _SIZES), min_size=1, max_size=3),
    )
    def some_assets(self, described):
        return multiple(
            *(
                asset_named(next(_NUMBERS), size_bytes, filename=filename, did=did, mime=mime)
                for did, filename, mime, size_bytes in described
            )
        )

    @rule(target=urls, asset=assets)
    def create_upload_url(self, asset):
        return asset, self._runner.run(self._uploads.url(asset))

    @rule(used=urls, byte=_BYTES, off_by=st.sampled_from([0, 0, -1, 1]))
    def upload(self, used, byte, off_by):
        asset, url = used
        data = bytes([byte]) * (asset.size_bytes + off_by)
        try:
            self._runner.run(self._subject.put(url, data))
        except MediaTooLarge:
            assert off_by == 1
        else:
            self._staged[asset] = data
        self.download(asset)  # no upload changes the promoted object

    @rule(asset=assets, byte=_BYTES, off_by=st.sampled_from([-1, 1]))
    def upload_another_size(self, asset, byte, off_by):
        self.upload(self.create_upload_url(asset), byte, off_by)
        self.inspect(asset)

    @rule(target=blobs, asset=assets)
    def inspect(self, asset):
        data = self._staged.get(asset)
        try:
            blob = self._runner.run(self._uploads.inspect(asset))
        except MediaSizeMismatch as mismatch:
            assert data is not None
            assert (mismatch.declared_bytes, mismatch.actual_bytes) == (asset.size_bytes, len(data))  # noqa: PT017 - the rule continues without the error as well
            assert len(data) != asset.size_bytes
            return multiple()
        if data is None:
            assert blob is None
            return multiple()
        assert blob is not None
        assert (blob.size_bytes, blob.head) == (len(data), data[:MAGIC_BYTES])
        assert len(data) == asset.size_bytes, "the store did not check the declared size"
        assert blob.sha256 == hashlib.sha256(data).hexdigest()
        return asset, blob, data

    @rule(inspected=blobs, times=st.integers(1, 2))
    def promote(self, inspected, times):
        asset, blob, data = inspected
        for _ in range(times):
            promoted = self._runner.run(self._uploads.promote(asset, blob))
            assert promoted or self._staged.get(asset) != data
            if promoted:
                self._final[asset] = data
        self.download(asset)

    @rule(target=blobs, asset=assets, byte=_BYTES)
    def upload_and_promote(self, asset, byte):
        """Upload, inspect and promote in one step, since random steps seldom do all of that, let alone twice."""
        self.upload(self.create_upload_url(asset), byte, 0)
        inspected = self.inspect(asset)
        self.promote(inspected, 1)
        return inspected

    @rule(asset=assets)
    def download(self, asset):
        final = self._runner.run(self._uploads.final(asset))
        data = self._final.get(asset)
        if data is None:
            assert final is None
            return
        disposition = content_disposition(asset.mime_type, asset.filename)
        assert final == Download(data, asset.mime_type, disposition)

    @rule(asset=assets)
    def head(self, asset):
        if asset in self._final:
            assert self._runner.run(self._uploads.final_size(asset)) == len(self._final[asset])

    @rule(asset=assets)
    def use_urls_with_the_wrong_method(self, asset):
        upload, download = (self._runner.run(url(asset)) for url in (self._uploads.url, self._uploads.download_url))
        self._refuses(upload, download, asset)

    @precondition(lambda self: isinstance(self._subject.clock, SettableClock))
    @rule(asset=assets)
    def use_expired_urls(self, asset):
        upload = self._created_earlier(UPLOAD_LIFE, self._uploads.url, asset)
        download = self._created_earlier(DOWNLOAD_LIFE, self._uploads.download_url, asset)
        self._refuses(download, upload, asset)

    @rule(asset=assets)
    def delete_staged(self, asset):
        self._runner.run(self._uploads.store.delete(asset.staging_key))
        self._staged.pop(asset, None)

    @rule(asset=assets)
    def delete_final(self, asset):
        self._runner.run(self._uploads.store.delete(asset.final_key(ENV)))
        self._final.pop(asset, None)

    def _created_earlier(self, life: timedelta, url: Callable[[Asset], Coroutine[Any, Any, str]], asset: Asset) -> str:
        clock = self._subject.clock
        assert isinstance(clock, SettableClock)
        clock.set_back = life
        try:
            return self._runner.run(url(asset))
        finally:
            clock.set_back = timedelta()

    def _refuses(self, to_read: str, to_write: str, asset: Asset) -> None:
        """Assert that one URL cannot be read and the other not written. Later steps check that nothing changed."""
        with pytest.raises(BlobUrlRefused):
            self._runner.run(self._subject.get(to_read))
        with pytest.raises(BlobUrlRefused):
            self._runner.run(self._subject.put(to_write, b"x" * asset.size_bytes))

    def teardown(self):
        try:
            for asset in set(self._staged) | set(self._final):
                self.inspect(asset)
                self.download(asset)
                self.head(asset)
        finally:
            self._runner.run(self._exits.aclose())
            self._runner.close()


def blob_store_machine(open_subject: OpenSubject) -> type[BlobStoreMachine]:
    """Return a state machine for this store, to be passed to `run_state_machine_as_test`."""
    return type("BlobStoreMachine", (BlobStoreMachine,), {"opened_by": staticmethod(open_subject)})
