"""Reads a catalogue's files from its URL, within limits of size, number and time.

Supports https, http to the loopback, and file. Redirects are errors. Bytes are counted as they arrive and nothing is
decompressed, so that decompression bombs are harmless.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import urllib3

from cdv_adapters.addresses import check_specs_url
from cdv_adapters.http_pool import http_pool
from cdv_core.domain.catalogue_index import INDEX_NAME

INDEX_MAX_BYTES: Final = 4 * 1024 * 1024  # ours: ten thousand documents need two
DOCUMENT_MAX_BYTES: Final = 256 * 1024  # ours: the limit of a record
CATALOGUE_MAX_BYTES: Final = 64 * 1024 * 1024  # ours: all files together
_CHUNK_BYTES: Final = 64 * 1024
_CONCURRENCY: Final = 8  # ours: little load on the source, and five thousand small files still take only seconds


class FetchFailed(Exception):
    """A file could not be fetched; the argument says which and why."""


@dataclass(frozen=True, slots=True)
class HttpValidators:
    """HTTP validators of one version of a file, for conditional requests."""

    etag: str | None = None
    last_modified: str | None = None

    @property
    def conditions(self) -> dict[str, str]:
        headers = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in headers.items() if value}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A fetched file. `body`: None if it has not changed since the validators `stamp`."""

    body: bytes | None
    stamp: HttpValidators


class SpecsUrl:
    """A catalogue's location. `url` names its index or the folder that holds it."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float = 60,  # ours: for the whole catalogue
        pause_seconds: float = 10,  # ours: for a response's head, then between two chunks of its body
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ValueError: not https, http to the loopback or file; or with a user, a query or a fragment."""
        check_specs_url(url)
        parts = urlsplit(url)
        self.url = url if parts.path.endswith(".json") else f"{url.rstrip('/')}/{INDEX_NAME}"
        self.timeout_seconds = timeout_seconds
        self._pause_seconds = pause_seconds
        self.monotonic = monotonic
        self.is_file = parts.scheme == "file"
        self.closed = False
        self._pool = http_pool(maxsize=_CONCURRENCY, block=True, retries=False)

    def close(self) -> None:
        """Make every fetch in progress fail soon."""
        self.closed = True
        self._pool.clear()

    def index(self, known: HttpValidators) -> Fetched:
        """Return the index, without its body if it has not changed since `known`. Blocks. Raises: FetchFailed."""
        return self._fetch(self.url, INDEX_MAX_BYTES, _Budget(self), known)

    def documents(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return all documents at `paths`. Blocks. Raises: FetchFailed: one of them cannot be fetched."""
        budget = _Budget(self)

        def fetch(path: str) -> tuple[str, bytes]:
            body = self._fetch(urljoin(self.url, path), DOCUMENT_MAX_BYTES, budget, HttpValidators()).body
            if body is None:
                raise FetchFailed(f"{path}: status 304, although the request was not conditional")
            return path, body

        with ThreadPoolExecutor(_CONCURRENCY, "catalogue") as pool:
            futures = [pool.submit(fetch, path) for path in paths]
            try:
                return dict(future.result() for future in futures)
            finally:
                budget.exhaust()  # after a failure, make the other fetches fail too
                pool.shutdown(cancel_futures=True)

    def _fetch(self, url: str, max_bytes: int, budget: _Budget, known: HttpValidators) -> Fetched:
        try:
            return self._read(url, max_bytes, budget) if self.is_file else self._get(url, max_bytes, budget, known)
        except OSError as error:
            raise FetchFailed(f"{url}: {error.strerror or error}") from error
        except urllib3.exceptions.HTTPError as error:
            raise FetchFailed(f"{url}: {error}") from error

    def _read(self, url: str, max_bytes: int, budget: _Budget) -> Fetched:
        path = Path(url2pathname(urlsplit(url).path))
        if not stat.S_ISREG(path.stat().st_mode):
            raise FetchFailed(f"{url}: not a regular file")
        with path.open("rb") as file:
            return Fetched(budget.collect(url, iter(lambda: file.read(_CHUNK_BYTES), b""), max_bytes), HttpValidators())

    def _get(self, url: str, max_bytes: int, budget: _Budget, known: HttpValidators) -> Fetched:
        timeout = urllib3.Timeout(connect=self._pause_seconds, read=self._pause_seconds)
        response = self._pool.request(
            "GET",
            url,
            headers={"Accept-Encoding": "identity", **known.conditions},
            timeout=timeout,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        with closing(response):
            if response.status == 304 and known.conditions:
                return Fetched(None, known)
            if response.status != 200:
                raise FetchFailed(f"{url}: status {response.status}")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise FetchFailed(f"{url}: the response is compressed, although the request excluded that")
            # read1 returns what has arrived instead of waiting for a whole chunk: so the deadline is checked often.
            chunks = iter(lambda: response.read1(_CHUNK_BYTES, decode_content=False), b"")
            body = budget.collect(url, chunks, max_bytes)
            return Fetched(body, HttpValidators(response.headers.get("ETag"), response.headers.get("Last-Modified")))


class _Budget:
    """The remaining time and bytes for fetching one catalogue."""

    def __init__(self, source: SpecsUrl) -> None:
        self._source = source
        self._deadline = source.monotonic() + source.timeout_seconds
        self._bytes_left = CATALOGUE_MAX_BYTES
        self._lock = Lock()

    def exhaust(self) -> None:
        self._deadline = float("-inf")

    def collect(self, url: str, chunks: Iterable[bytes], max_bytes: int) -> bytes:
        """Return the joined `chunks`. Raises FetchFailed: the file or the catalogue is too large, or too slow."""
        body = bytearray()
        for chunk in chunks:
            body += chunk
            with self._lock:
                self._bytes_left -= len(chunk)
            if len(body) > max_bytes:
                raise FetchFailed(f"{url}: over the limit of {max_bytes} bytes")
            if self._bytes_left < 0:
                raise FetchFailed(f"the catalogue is over the limit of {CATALOGUE_MAX_BYTES} bytes")
            if self._source.closed or self._source.monotonic() > self._deadline:
                raise FetchFailed(f"{url}: too slow")
        return bytes(body)
