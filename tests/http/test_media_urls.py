"""Signed URLs of uploads and downloads: their purpose and their expiry (spec: endpoints, media)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.fakes.clock import FakeClock
from tests.http.api import PNG, Api, Creator, data, refused, serving
from tests.http.media_files import JPEG, put


@pytest.fixture(scope="module")
async def frozen(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A vault whose clock moves only when advanced."""
    async with serving(tmp_path_factory.mktemp("still"), FakeClock()) as api:
        yield api


async def test_after_finalize_the_old_upload_url_changes_nothing(ada: Creator, bob: Creator) -> None:
    ticket = await ada.staged()
    asset = data(await ada.finalize(ticket["assetId"]))
    for other in (PNG[:-1] + b"?", b"", PNG):
        await ada.api.http.put(ticket["uploadUrl"], content=other)
        assert data(await bob.meta(asset["assetId"])) == asset
        download = await ada.api.http.get((await bob.content(asset["assetId"])).headers["location"])
        assert hashlib.sha256(download.content).hexdigest() == asset["checksum"]
        assert data(await ada.finalize(ticket["assetId"])) == asset


async def test_a_signed_url_is_valid_for_its_own_purpose_only(ada: Creator) -> None:
    http = ada.api.http
    ticket = await ada.staged()
    data(await ada.finalize(ticket["assetId"]))
    location = (await ada.content(ticket["assetId"])).headers["location"]
    up, down = ticket["uploadUrl"].rpartition("/")[2], location.rpartition("/")[2]
    refused(await http.get(f"/v1/blobs/download/{up}"), 403, "CDV_AUTHZ")
    refused(await http.put(f"/v1/blobs/upload/{down}", content=PNG), 403, "CDV_AUTHZ")
    refused(await http.get(ticket["uploadUrl"]), 405, "CDV_BAD_REQUEST")
    refused(await http.put(location, content=PNG), 405, "CDV_BAD_REQUEST")
    refused(await http.delete(location), 405, "CDV_BAD_REQUEST")
    for token in (up, down):
        payload, _, signature = token.rpartition(".")
        forged = payload[:-1] + ("A" if payload[-1] != "A" else "B")
        for wrong in (
            "x",
            f"{payload}.",
            f".{signature}",
            f"{forged}.{signature}",
            f"{token}=",
            f"{token}x",
            token[:-1],
        ):
            refused(await http.put(f"/v1/blobs/upload/{wrong}", content=PNG), 403, "CDV_AUTHZ")
            refused(await http.get(f"/v1/blobs/download/{wrong}"), 403, "CDV_AUTHZ")
    for wrong in ("%00", "%ff", "%2f", "%F0%9F%98%80.x"):
        assert (await http.put(f"/v1/blobs/upload/{wrong}", content=PNG)).status_code in {403, 404}


async def test_two_simultaneous_uploads_are_independent(ada: Creator) -> None:
    one, two = data(await ada.init()), data(await ada.init(JPEG, mimeType="image/jpeg"))
    assert await put(ada, one, PNG) == 200
    assert await put(ada, two, JPEG) == 200
    assert data(await ada.finalize(two["assetId"], hashlib.sha256(JPEG).hexdigest()))["mimeType"] == "image/jpeg"
    assert data(await ada.finalize(one["assetId"]))["mimeType"] == "image/png"


async def test_an_upload_expires_after_15_minutes(frozen: Api) -> None:
    assert frozen.clock is not None
    owner = frozen.creator()
    ticket = data(await owner.init())
    minutes = timedelta(minutes=15)
    assert ticket["expiresAt"] == (frozen.clock.now() + minutes).isoformat().replace("+00:00", "Z")
    frozen.clock.moment += minutes - timedelta(microseconds=1)
    assert await put(owner, ticket, PNG) == 200
    assert data(await owner.meta(ticket["assetId"]))["status"] == "pending"
    frozen.clock.moment += timedelta(microseconds=1)
    refused(await frozen.http.put(ticket["uploadUrl"], content=PNG), 403, "CDV_AUTHZ")
    refused(await owner.finalize(ticket["assetId"]), 404, "CDV_NOT_FOUND")
    refused(await owner.meta(ticket["assetId"]), 404, "CDV_NOT_FOUND")


async def test_a_finalised_asset_does_not_expire_but_its_download_url_does(frozen: Api) -> None:
    assert frozen.clock is not None
    owner = frozen.creator()
    asset = await owner.uploaded()
    location = (await owner.content(asset["assetId"])).headers["location"]
    frozen.clock.moment += timedelta(minutes=5) - timedelta(microseconds=1)
    assert (await frozen.http.get(location)).content == PNG
    frozen.clock.moment += timedelta(microseconds=1)
    refused(await frozen.http.get(location), 403, "CDV_AUTHZ")
    frozen.clock.moment += timedelta(days=400)
    owner = frozen.creator(owner.did)
    assert data(await owner.meta(asset["assetId"])) == asset
    assert data(await owner.finalize(asset["assetId"])) == asset
    assert (await frozen.http.get((await owner.content(asset["assetId"])).headers["location"])).content == PNG
