"""Finalising media, and the same work by the object store alone: one get and one copy."""

from __future__ import annotations

import asyncio
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter
from urllib.parse import urlsplit

import httpx
from minio import Minio
from minio.commonconfig import CopySource

from tests.load.bench.data import HOT, did
from tests.load.bench.open_loop import all_once
from tests.load.bench.requests import finalize
from tests.load.bench.results import MediaRow
from tests.load.bench.stack import Stack

_CONNECTIONS, _ROUNDS = 8, 5


def upload(it: Stack, count: int, size_bytes: int) -> list[bytes]:
    """Upload `count` assets of that size; return the requests that finalise them."""
    token = it.token(did(HOT))
    content = b"\x89PNG\r\n\x1a\n" + os.urandom(size_bytes - 8)
    sha256 = hashlib.sha256(content).hexdigest()
    announced = {"did": did(HOT), "mimeType": "image/png", "size": size_bytes}

    def one(_: int) -> bytes:
        answer = client.post("/v1/media/uploadInit", json=announced).raise_for_status().json()["data"]
        httpx.put(answer["uploadUrl"], content=content, timeout=60).raise_for_status()
        return finalize(token, answer["assetId"], sha256)

    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=it.url, headers=headers, timeout=60) as client, ThreadPoolExecutor(4) as threads:
        return list(threads.map(one, range(count)))


def finalize_in_turn(it: Stack, requests: list[bytes], size_bytes: int) -> MediaRow:
    """Finalise all, and have the store alone get and copy as many objects, in turn."""
    count = len(requests) // _ROUNDS
    alone = _StoreAlone(it, len(requests), size_bytes)
    rounds = []
    for begin in range(0, count * _ROUNDS, count):
        paced = asyncio.run(all_once(it.port, requests[begin : begin + count], connections=_CONNECTIONS))
        if set(paced.answers) != {200}:
            raise SystemExit(f"finalize: {paced.answers}")
        rounds.append((paced, alone.get_and_copy(begin, begin + count)))
    return MediaRow(
        size_bytes,
        median(paced.rate for paced, _ in rounds),
        median(rate for _, rate in rounds),
        median(paced.rate / rate for paced, rate in rounds),
        median(paced.p50 for paced, _ in rounds),
        median(paced.p95 for paced, _ in rounds),
    )


class _StoreAlone:
    """The object store alone, used by its own client."""

    def __init__(self, it: Stack, count: int, size_bytes: int) -> None:
        assert it.bucket is not None, "media are finalised in a bucket"
        self._bucket = it.bucket
        address = urlsplit(it.bucket.endpoint)
        self._client = Minio(
            address.netloc,
            access_key=it.bucket.access_key,
            secret_key=it.bucket.secret_key,
            region=it.bucket.region,
            secure=address.scheme == "https",
        )
        self._names = [f"alone/{number}" for number in range(count)]
        content = os.urandom(size_bytes)

        def put(name: str) -> None:
            url = self._client.presigned_put_object(self._bucket.name, name)
            httpx.put(url, content=content, timeout=60).raise_for_status()

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(put, self._names))

    def get_and_copy(self, begin: int, end: int) -> float:
        """Return how many objects per second can be read and copied."""
        with ThreadPoolExecutor(_CONNECTIONS) as threads:
            begun = perf_counter()
            list(threads.map(self._get_and_copy, self._names[begin:end]))
            return (end - begin) / (perf_counter() - begun)

    def _get_and_copy(self, name: str) -> None:
        with self._client.get_object(self._bucket.name, name) as response:
            for _ in response.stream(1024 * 1024):
                pass
        self._client.copy_object(self._bucket.name, f"{name}.copy", CopySource(self._bucket.name, name))
