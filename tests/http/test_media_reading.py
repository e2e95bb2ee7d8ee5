"""An asset from uploadInit to its download, and reader may read it (spec: endpoints, media)."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.http.api import PNG, TIME, Creator, data, refused, serving
from tests.http.media_files import SHA, permanent


async def test_a_file_is_uploaded_finalised_and_downloaded(ada: Creator, bob: Creator) -> None:
    http = ada.api.http
    ticket = data(await ada.init(sha256=SHA, filename="cat.png"))
    assert set(ticket) == {"assetId", "uploadUrl", "expiresAt"}
    assert re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", ticket["assetId"])
    assert ticket["uploadUrl"].startswith("http://vault.test/v1/")
    assert TIME.fullmatch(ticket["expiresAt"])
    assert (await http.put(ticket["uploadUrl"], content=PNG)).status_code == 200
    asset = data(await ada.finalize(ticket["assetId"]))
    created_at = asset.pop("createdAt")
    assert TIME.fullmatch(created_at)
    assert asset == permanent(ada, ticket["assetId"], filename="cat.png")
    for reader in (ada, bob):
        assert data(await reader.meta(ticket["assetId"])) == {**asset, "createdAt": created_at}
        content = await reader.content(ticket["assetId"])
        assert (content.status_code, content.content) == (307, b"")
        assert content.headers["x-correlation-id"]
        download = await http.get(content.headers["location"])
        assert download.status_code == 200
        assert download.content == PNG
        assert download.headers["content-type"] == "image/png"
        assert download.headers["content-length"] == str(len(PNG))
        assert download.headers["x-content-type-options"] == "nosniff"
        assert download.headers["content-disposition"].startswith("inline")


async def test_optional_members_not_sent_to_init_are_absent_from_the_asset(ada: Creator) -> None:
    asset = await ada.uploaded()
    assert set(asset) == {"assetId", "uri", "mimeType", "size", "checksum", "createdAt"}


async def test_a_pending_asset_is_visible_to_its_owner_only(ada: Creator, bob: Creator) -> None:
    ticket = data(await ada.init(filename="x.png"))
    meta = data(await ada.meta(ticket["assetId"]))
    assert meta.pop("status") == "pending"
    assert meta.pop("createdAt")
    expected = permanent(ada, ticket["assetId"], filename="x.png")
    del expected["checksum"]
    assert meta == expected
    refused(await bob.meta(ticket["assetId"]), 404, "CDV_NOT_FOUND")
    for reader in (ada, bob):
        refused(await reader.content(ticket["assetId"]), 404, "CDV_NOT_FOUND")
    assert data(await ada.meta(data(await ada.init(sha256=SHA))["assetId"]))["checksum"] == SHA


async def test_reading_media_needs_a_token(ada: Creator) -> None:
    asset = await ada.uploaded()
    for leaf in ("meta", "content"):
        refused(await ada.api.http.get(f"/v1/media/{asset['assetId']}/{leaf}"), 401, "CDV_AUTHN")


LENGTH = len(PNG)


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, LENGTH - 1),
        ("bytes=5-9", 5, 9),
        (f"bytes={LENGTH - 1}-", LENGTH - 1, LENGTH - 1),
        (f"bytes=5-{LENGTH}", 5, LENGTH - 1),
        ("bytes=5-999999999999999999", 5, LENGTH - 1),
        ("bytes=1-" + "9" * 99, 1, LENGTH - 1),
        ("BYTES=5-9", 5, 9),
        ("bytes=-1", LENGTH - 1, LENGTH - 1),
        (f"bytes=-{LENGTH}", 0, LENGTH - 1),
        ("bytes=-999999", 0, LENGTH - 1),
    ],
)
async def test_a_range_request_returns_that_part_with_206(ada: Creator, wanted: str, first: int, last: int) -> None:
    asset = await ada.uploaded()
    location = (await ada.content(asset["assetId"])).headers["location"]
    answer = await ada.api.http.get(location, headers={"Range": wanted})
    assert answer.status_code == 206
    assert answer.content == PNG[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{LENGTH}"
    assert answer.headers["content-length"] == str(last + 1 - first)
    assert answer.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "wanted",
    [
        f"bytes={LENGTH}-",
        "bytes=-0",
        f"bytes={LENGTH}-{LENGTH + 5}",
        "bytes=999999999999999999-",
        "bytes=" + "9" * 99 + "-",
    ],
)
async def test_an_unsatisfiable_range_is_refused_with_416(ada: Creator, wanted: str) -> None:
    asset = await ada.uploaded()
    location = (await ada.content(asset["assetId"])).headers["location"]
    answer = await ada.api.http.get(location, headers={"Range": wanted})
    refused(answer, 416, "CDV_BAD_REQUEST")
    assert answer.headers["content-range"] == f"bytes */{LENGTH}"


@pytest.mark.parametrize(
    "wanted",
    [
        *("", "bytes=", "bytes=-", "bytes=9-5", "bytes=a-b", "items=0-1", "bytes=0-1,3-4", "bytes=0-1x", "bytes 0-1"),
        *("bytes=\u0660-\u0661", "bytes=1-" + "9" * 5_000),
    ],
)
async def test_an_invalid_or_unsupported_range_returns_the_whole_file(ada: Creator, wanted: str) -> None:
    asset = await ada.uploaded()
    location = (await ada.content(asset["assetId"])).headers["location"]
    answer = await ada.api.http.get(location, headers=httpx.Headers({"Range": wanted}, encoding="utf-8"))
    assert (answer.status_code, answer.content) == (200, PNG)
    assert answer.headers["accept-ranges"] == "bytes"


async def test_if_range_with_another_etag_returns_the_whole_file(ada: Creator) -> None:
    asset = await ada.uploaded()
    location = (await ada.content(asset["assetId"])).headers["location"]
    answer = await ada.api.http.get(location, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (answer.status_code, answer.content) == (200, PNG)


async def test_a_head_of_a_download_returns_its_content_length(ada: Creator) -> None:
    asset = await ada.uploaded()
    location = (await ada.content(asset["assetId"])).headers["location"]
    answer = await ada.api.http.head(location)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(LENGTH)


async def test_an_asset_survives_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        owner = api.creator()
        pending, final = await owner.staged(), await owner.uploaded()
    async with serving(tmp_path) as api:
        owner = api.creator(owner.did)
        assert data(await owner.meta(final["assetId"])) == final
        assert data(await owner.finalize(pending["assetId"]))
        assert (await api.http.get((await owner.content(final["assetId"])).headers["location"])).content == PNG
