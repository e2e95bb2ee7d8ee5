"""Finalising media, and what the object store alone does for it: one get and one copy."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from urllib.parse import urlsplit

import httpx
from minio import Minio
from minio.commonconfig import CopySource

from tests.load.bench.data import HOT, did
from tests.load.bench.open_loop import Paced, all_once
from tests.load.bench.requests import finalize
from tests.load.bench.stack import Stack

_CONNECTIONS = 8


def upload(it: Stack, count: int, size_bytes: int) -> list[bytes]:
    """Upload as many assets of that size; return the requests that finalise them."""
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


async def finalize_all(it: Stack, requests: list[bytes]) -> Paced:
    return await all_once(it.port, requests, connections=_CONNECTIONS)


def store_alone(it: Stack, count: int, size_bytes: int) -> float:
    """Return how often a second the store gives out an object of that size and copies it."""
    bucket = it.bucket
    assert bucket is not None, "media are finalised in a bucket"
    address = urlsplit(bucket.endpoint)
    client = Minio(
        address.netloc,
        access_key=bucket.access_key,
        secret_key=bucket.secret_key,
        region=bucket.region,
        secure=address.scheme == "https",
    )
    names = [f"alone/{number}" for number in range(count)]
    content = os.urandom(size_bytes)

    def put(name: str) -> None:
        url = client.presigned_put_object(bucket.name, name)
        httpx.put(url, content=content, timeout=60).raise_for_status()

    def get_and_copy(name: str) -> None:
        with client.get_object(bucket.name, name) as response:
            for _ in response.stream(1024 * 1024):
                pass
        client.copy_object(bucket.name, f"{name}.copy", CopySource(bucket.name, name))

    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        list(threads.map(put, names))
        begun = perf_counter()
        list(threads.map(get_and_copy, names))
        return count / (perf_counter() - begun)
