"""Media from the promise of an upload to permanent bytes (spec: endpoints, media; domain, media)."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.clock import FakeClock
from tests.http.api import PNG, TIME, Api, Creator, data, refused, serving

UNKNOWN = "01M85VXXZ7T2JXB720KXQH381M"
SHA = hashlib.sha256(PNG).hexdigest()
MAX = 10 * 1024 * 1024  # spec: media, default limit
JPEG, GIF = b"\xff\xd8\xff\xe0JFIF", b"GIF89a....."
MP4 = b"\x00\x00\x00\x18ftypmp42"


@pytest.fixture(scope="module")
async def still(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A vault whose clock moves when it is told to."""
    async with serving(tmp_path_factory.mktemp("still"), FakeClock()) as api:
        yield api


def permanent(creator: Creator, asset_id: str, **more: Any) -> dict[str, Any]:
    return {
        "assetId": asset_id,
        "uri": f"at://{creator.did}/com.registryaccord.media.asset/{asset_id}",
        "mimeType": "image/png",
        "size": len(PNG),
        "checksum": SHA,
        **more,
    }


async def test_a_file_goes_all_the_way(ada: Creator, bob: Creator) -> None:
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


async def test_what_was_left_out_at_init_is_left_out_after(ada: Creator) -> None:
    asset = await ada.uploaded()
    assert set(asset) == {"assetId", "uri", "mimeType", "size", "checksum", "createdAt"}


@pytest.mark.parametrize("member", ["did", "mimeType", "size"])
async def test_a_required_member_of_init_is_required(ada: Creator, member: str) -> None:
    missing: dict[str, Any] = {member: ...}
    assert refused(await ada.init(**missing), 400, "CDV_VALIDATION")["details"]["field"] == member


@pytest.mark.parametrize("member", ["did", "mimeType", "sha256", "filename"])
@pytest.mark.parametrize("wrong", [None, True, 0, 1.5, [], {}, ["x"]], ids=str)
async def test_text_of_another_type_is_refused_at_init(ada: Creator, member: str, wrong: Any) -> None:
    assert refused(await ada.init(**{member: wrong}), 400, "CDV_VALIDATION")["details"]["field"] == member


@pytest.mark.parametrize("wrong", [None, True, False, 0, -1, -(2**64), 1.5, 0.0, -0.0, "1", "", [], {}, [1]], ids=str)
async def test_a_size_is_a_whole_number_of_bytes_of_at_least_one(ada: Creator, wrong: Any) -> None:
    assert refused(await ada.init(size=wrong), 400, "CDV_VALIDATION")["details"]["field"] == "size"


@pytest.mark.parametrize("size", [MAX + 1, 2**53 + 1, 2**63, 2**64, 10**30, 1e30])
async def test_too_large_is_refused(ada: Creator, size: float) -> None:
    error = refused(await ada.init(size=size), 400, "CDV_MEDIA_SIZE")
    assert error["details"] == {"field": "size", "size": size, "max": MAX}


@pytest.mark.parametrize("size", [1, MAX, 1.0, 4e2])
async def test_both_ends_of_the_sizes_are_accepted_however_they_are_spelt(ada: Creator, size: float) -> None:
    assert data(await ada.init(size=size))


async def test_a_size_that_overflows_is_refused(ada: Creator) -> None:
    for size in (b"1e400", b"-1e400", b"1" * 5000):
        body = b'{"did":"%s","mimeType":"image/png","size":%s}' % (ada.did.encode(), size)
        answer = await ada.post("/v1/media/uploadInit", body)
        refused(answer, 400, answer.json()["error"]["code"])
        assert answer.json()["error"]["code"] in {"CDV_VALIDATION", "CDV_MEDIA_SIZE"}


@pytest.mark.parametrize(
    "mime_type",
    [
        *("", "image", "image/", "/png", "image/svg+xml", "text/html", "application/json", "image/png; charset=x"),
        *(" image/png", "image/png\x00", "image/pngx", "image/*", "*/*", "x" * 5000, "\u2028"),
    ],
)
async def test_a_type_that_is_not_allowed_is_refused(ada: Creator, mime_type: str) -> None:
    error = refused(await ada.init(mimeType=mime_type), 400, "CDV_MEDIA_TYPE")
    assert error["details"]["allowed"] == ["image/gif", "image/jpeg", "image/png", "video/mp4"]


@pytest.mark.parametrize(
    ("mime_type", "content"),
    [("image/png", PNG), ("image/jpeg", JPEG), ("image/gif", GIF), ("video/mp4", MP4), ("IMAGE/PNG", PNG)],
)
async def test_every_allowed_type_goes_all_the_way(ada: Creator, mime_type: str, content: bytes) -> None:
    asset = await ada.uploaded(content, mimeType=mime_type)
    assert asset["mimeType"] == mime_type.lower()


@pytest.mark.parametrize(
    "sha256", ["", "x", SHA[:-1], f"{SHA}0", "g" * 64, f" {SHA}", f"{SHA}\n", f"0x{SHA[:62]}", "\u0660" * 64]
)
async def test_what_is_no_sha_256_is_refused(ada: Creator, sha256: str) -> None:
    assert refused(await ada.init(sha256=sha256), 400, "CDV_VALIDATION")["details"]["field"] == "sha256"
    ticket = await ada.staged()
    if sha256:
        answer = await ada.finalize(ticket["assetId"], sha256)
        assert refused(answer, 400, "CDV_VALIDATION")["details"]["field"] == "sha256"


async def test_a_sha_256_is_read_in_either_case(ada: Creator) -> None:
    ticket = await ada.staged(sha256=SHA.upper())
    asset = data(await ada.finalize(ticket["assetId"], SHA.upper()))
    assert asset["checksum"] == SHA
    assert data(await ada.finalize(ticket["assetId"], SHA)) == asset


async def test_nobody_uploads_for_another(ada: Creator, bob: Creator) -> None:
    assert refused(await ada.init(did=bob.did), 403, "CDV_DID_MISMATCH")["details"]["field"] == "did"


@pytest.mark.parametrize(
    "filename",
    [
        *("..", ".", "...", "", " ", " . ", "a/b", "/etc/passwd", "../../x", "a\\b", "C:\\x", "a\x00.png", "a\nb"),
        *("a\r\nSet-Cookie: x", "\x7f", "\x85", "\u202egnp.exe", "x" * 256, "é" * 128),
    ],
)
async def test_a_hostile_file_name_is_refused(ada: Creator, filename: str) -> None:
    assert refused(await ada.init(filename=filename), 400, "CDV_VALIDATION")["details"]["field"] == "filename"


@pytest.mark.parametrize(
    "filename",
    [
        *("x" * 255, "é" * 127, "a b.png", "..x", "x..", ".hidden", "-rf", "~", "con", "a;b", "'\"`$(x)", "%2e%2e%2f"),
        *("a%00b", "\U0001f600.png", "файл.png", 'name="x"; filename=y', "*?<>|:"),
    ],
)
async def test_any_other_file_name_comes_back_and_leads_nowhere(ada: Creator, filename: str) -> None:
    asset = await ada.uploaded(filename=filename)
    assert asset["filename"] == filename
    assert data(await ada.meta(asset["assetId"]))["filename"] == filename
    download = await ada.api.http.get((await ada.content(asset["assetId"])).headers["location"])
    assert download.content == PNG
    disposition = download.headers["content-disposition"]
    assert disposition.isascii()
    assert disposition.count('"') == 2
    media = ada.api.settings.data_dir / "media"
    assert all(path.resolve().is_relative_to(media.resolve()) for path in media.rglob("*"))


@pytest.mark.parametrize("member", ["assetId", "sha256"])
@pytest.mark.parametrize("wrong", [..., None, True, 0, 1.5, [], {}, ["x"]], ids=str)
async def test_finalize_needs_both_its_members(ada: Creator, member: str, wrong: Any) -> None:
    good: dict[str, Any] = {"assetId": UNKNOWN, "sha256": SHA, member: wrong}
    body = {name: value for name, value in good.items() if value is not ...}
    answer = await ada.api.http.post("/v1/media/finalize", json=body, headers=ada.auth)
    assert refused(answer, 400, "CDV_VALIDATION")["details"]["field"] == member


async def test_an_unknown_asset_is_not_found(ada: Creator) -> None:
    for asset_id in (UNKNOWN, "nope", "", UNKNOWN.lower(), "\x00", "../x"):
        refused(await ada.finalize(asset_id), 404, "CDV_NOT_FOUND")
    refused(await ada.meta(UNKNOWN), 404, "CDV_NOT_FOUND")
    refused(await ada.content(UNKNOWN), 404, "CDV_NOT_FOUND")


async def test_nothing_uploaded_yet_is_a_conflict(ada: Creator) -> None:
    ticket = data(await ada.init())
    error = refused(await ada.finalize(ticket["assetId"]), 409, "CDV_CONFLICT")
    assert error["details"]["reason"] == "not_uploaded"
    assert (await ada.api.http.put(ticket["uploadUrl"], content=PNG)).status_code == 200
    assert data(await ada.finalize(ticket["assetId"]))


async def test_finalising_again_gives_the_same_answer(ada: Creator) -> None:
    ticket = await ada.staged(filename="x.png")
    first = await ada.finalize(ticket["assetId"])
    assert data(first)
    for _ in range(2):
        assert (await ada.finalize(ticket["assetId"])).content == first.content


async def test_concurrent_finalisations_give_one_answer(ada: Creator) -> None:
    ticket = await ada.staged()
    answers = await asyncio.gather(*(ada.finalize(ticket["assetId"]) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


async def test_finalising_with_another_hash_is_a_conflict(ada: Creator) -> None:
    asset = await ada.uploaded()
    error = refused(await ada.finalize(asset["assetId"], "0" * 64), 409, "CDV_CONFLICT")
    assert error["details"] == {"reason": "finalized_with_another_hash", "assetId": asset["assetId"]}
    assert data(await ada.meta(asset["assetId"])) == asset


async def test_someone_elses_asset_is_not_ones_own(ada: Creator, bob: Creator) -> None:
    pending, final = await ada.staged(), await ada.uploaded()
    for asset in (pending, final):
        error = refused(await bob.finalize(asset["assetId"]), 403, "CDV_DID_MISMATCH")
        assert error["details"]["field"] == "assetId"
    assert data(await ada.finalize(pending["assetId"]))


async def put(ada: Creator, ticket: dict[str, Any], content: bytes) -> int:
    return (await ada.api.http.put(ticket["uploadUrl"], content=content)).status_code


@pytest.mark.parametrize(
    ("content", "sha256", "code"),
    [
        (PNG[:-1] + b"?", SHA, "CDV_MEDIA_CHECKSUM"),
        (PNG, "0" * 64, "CDV_MEDIA_CHECKSUM"),
        (PNG[:-1], SHA, "CDV_MEDIA_SIZE"),
        (PNG + b"!", SHA, "CDV_MEDIA_SIZE"),
        (PNG[:-1], hashlib.sha256(PNG[:-1]).hexdigest(), "CDV_MEDIA_SIZE"),
        (b"", hashlib.sha256(b"").hexdigest(), "CDV_MEDIA_SIZE"),
        (JPEG.ljust(len(PNG)), hashlib.sha256(JPEG.ljust(len(PNG))).hexdigest(), "CDV_MEDIA_TYPE"),
        (b"<html>".ljust(len(PNG)), hashlib.sha256(b"<html>".ljust(len(PNG))).hexdigest(), "CDV_MEDIA_TYPE"),
    ],
)
async def test_wrong_bytes_are_refused_and_may_be_uploaded_again(
    ada: Creator, content: bytes, sha256: str, code: str
) -> None:
    ticket = data(await ada.init())
    assert await put(ada, ticket, content) == 200
    for _ in range(2):
        refused(await ada.finalize(ticket["assetId"], sha256), 400, code)
    assert data(await ada.meta(ticket["assetId"]))["status"] == "pending"
    refused(await ada.content(ticket["assetId"]), 404, "CDV_NOT_FOUND")
    assert await put(ada, ticket, PNG) == 200
    assert data(await ada.finalize(ticket["assetId"]))["checksum"] == SHA


@pytest.mark.parametrize(
    ("declared", "content", "detected"),
    [
        ("video/mp4", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "image/heic"),
        ("video/mp4", b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1avif", "image/avif"),
        ("video/mp4", b"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  ", "video/quicktime"),
        ("image/png", b"II*\x00\x08\x00\x00\x00", "image/tiff"),
        ("image/png", b"MM\x00*\x00\x00\x00\x08", "image/tiff"),
        ("image/jpeg", PNG, "image/png"),
    ],
)
async def test_the_type_that_the_bytes_show_is_told(ada: Creator, declared: str, content: bytes, detected: str) -> None:
    ticket = data(await ada.init(content, mimeType=declared))
    assert await put(ada, ticket, content) == 200
    error = refused(await ada.finalize(ticket["assetId"], hashlib.sha256(content).hexdigest()), 400, "CDV_MEDIA_TYPE")
    assert error["details"] == {"field": "mimeType", "declared": declared, "detected": detected}


async def test_bytes_that_are_not_the_announced_ones_are_refused(ada: Creator) -> None:
    ticket = await ada.staged(sha256="0" * 64)
    refused(await ada.finalize(ticket["assetId"]), 400, "CDV_MEDIA_CHECKSUM")
    refused(await ada.finalize(ticket["assetId"], "0" * 64), 400, "CDV_MEDIA_CHECKSUM")


async def test_bytes_that_do_not_show_their_type_are_taken_at_the_owners_word(ada: Creator) -> None:
    assert (await ada.uploaded(b"no signature here"))["size"] == 17


async def test_more_bytes_than_can_be_allowed_are_not_taken(ada: Creator) -> None:
    ticket = data(await ada.init())
    too_large = b"x" * (10 * 1024**2 + 1)
    refused(await ada.api.http.put(ticket["uploadUrl"], content=too_large), 400, "CDV_MEDIA_SIZE")
    assert refused(await ada.finalize(ticket["assetId"]), 409, "CDV_CONFLICT")["details"]["reason"] == "not_uploaded"
    assert await put(ada, ticket, PNG) == 200
    refused(await ada.api.http.put(ticket["uploadUrl"], content=too_large), 400, "CDV_MEDIA_SIZE")
    assert data(await ada.finalize(ticket["assetId"]))  # what was there before still is


async def test_after_finalize_the_old_upload_url_changes_nothing(ada: Creator, bob: Creator) -> None:
    ticket = await ada.staged()
    asset = data(await ada.finalize(ticket["assetId"]))
    for other in (PNG[:-1] + b"?", b"", PNG):
        await ada.api.http.put(ticket["uploadUrl"], content=other)
        assert data(await bob.meta(asset["assetId"])) == asset
        download = await ada.api.http.get((await bob.content(asset["assetId"])).headers["location"])
        assert hashlib.sha256(download.content).hexdigest() == asset["checksum"]
        assert data(await ada.finalize(ticket["assetId"])) == asset


async def test_a_pending_asset_is_its_owners_secret(ada: Creator, bob: Creator) -> None:
    ticket = data(await ada.init(filename="x.png"))
    meta = data(await ada.meta(ticket["assetId"]))
    assert meta.pop("status") == "pending"
    assert meta.pop("createdAt")
    expected = permanent(ada, ticket["assetId"], filename="x.png")
    del expected["checksum"]
    assert meta == expected
    refused(await bob.meta(ticket["assetId"]), 404, "CDV_NOT_FOUND")
    for who in (ada, bob):
        refused(await who.content(ticket["assetId"]), 404, "CDV_NOT_FOUND")
    assert data(await ada.meta(data(await ada.init(sha256=SHA))["assetId"]))["checksum"] == SHA


async def test_reading_media_needs_a_token(ada: Creator) -> None:
    asset = await ada.uploaded()
    for leaf in ("meta", "content"):
        refused(await ada.api.http.get(f"/v1/media/{asset['assetId']}/{leaf}"), 401, "CDV_AUTHN")


async def test_an_upload_url_serves_one_purpose(ada: Creator) -> None:
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


async def test_two_uploads_do_not_mix(ada: Creator) -> None:
    one, two = data(await ada.init()), data(await ada.init(JPEG, mimeType="image/jpeg"))
    assert await put(ada, one, PNG) == 200
    assert await put(ada, two, JPEG) == 200
    assert data(await ada.finalize(two["assetId"], hashlib.sha256(JPEG).hexdigest()))["mimeType"] == "image/jpeg"
    assert data(await ada.finalize(one["assetId"]))["mimeType"] == "image/png"


async def test_an_upload_expires_for_everyone(still: Api) -> None:
    assert still.clock is not None
    owner = still.creator()
    ticket = data(await owner.init())
    minutes = timedelta(minutes=15)
    assert ticket["expiresAt"] == (still.clock.now() + minutes).isoformat().replace("+00:00", "Z")
    still.clock.moment += minutes - timedelta(microseconds=1)
    assert await put(owner, ticket, PNG) == 200
    assert data(await owner.meta(ticket["assetId"]))["status"] == "pending"
    still.clock.moment += timedelta(microseconds=1)
    refused(await still.http.put(ticket["uploadUrl"], content=PNG), 403, "CDV_AUTHZ")
    refused(await owner.finalize(ticket["assetId"]), 404, "CDV_NOT_FOUND")
    refused(await owner.meta(ticket["assetId"]), 404, "CDV_NOT_FOUND")


async def test_a_finalised_asset_does_not_expire_but_its_download_url_does(still: Api) -> None:
    assert still.clock is not None
    owner = still.creator()
    asset = await owner.uploaded()
    location = (await owner.content(asset["assetId"])).headers["location"]
    still.clock.moment += timedelta(minutes=5) - timedelta(microseconds=1)
    assert (await still.http.get(location)).content == PNG
    still.clock.moment += timedelta(microseconds=1)
    refused(await still.http.get(location), 403, "CDV_AUTHZ")
    still.clock.moment += timedelta(days=400)
    owner = still.creator(owner.did)
    assert data(await owner.meta(asset["assetId"])) == asset
    assert data(await owner.finalize(asset["assetId"])) == asset
    assert (await still.http.get((await owner.content(asset["assetId"])).headers["location"])).content == PNG


async def test_what_the_operator_allows_counts(tmp_path: Path) -> None:
    async with serving(tmp_path, max_media_size=4, allowed_mime_types=("text/plain", "image/svg+xml")) as api:
        owner = api.creator()
        refused(await owner.init(b"12345", mimeType="text/plain"), 400, "CDV_MEDIA_SIZE")
        refused(await owner.init(b"1234"), 400, "CDV_MEDIA_TYPE")
        for mime_type in ("text/plain", "image/svg+xml"):
            asset = await owner.uploaded(b"1234", mimeType=mime_type, filename="a b.txt")
            download = await api.http.get((await owner.content(asset["assetId"])).headers["location"])
            # SVG runs scripts, so it is no image in this.
            assert download.headers["content-disposition"] == 'attachment; filename="a b.txt"'
            assert download.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in download.headers["content-security-policy"]


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
        ("bytes=-1", LENGTH - 1, LENGTH - 1),
        (f"bytes=-{LENGTH}", 0, LENGTH - 1),
        ("bytes=-999999", 0, LENGTH - 1),
    ],
)
async def test_a_part_of_a_file_is_given_to_who_asks_for_it(ada: Creator, wanted: str, first: int, last: int) -> None:
    asset = await ada.uploaded()
    location = (await ada.content(asset["assetId"])).headers["location"]
    answer = await ada.api.http.get(location, headers={"Range": wanted})
    assert answer.status_code == 206
    assert answer.content == PNG[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{LENGTH}"
    assert answer.headers["content-length"] == str(last + 1 - first)
    assert answer.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "wanted", [f"bytes={LENGTH}-", "bytes=-0", f"bytes={LENGTH}-{LENGTH + 5}", "bytes=999999999999999999-"]
)
async def test_a_part_that_is_not_there_is_refused(ada: Creator, wanted: str) -> None:
    asset = await ada.uploaded()
    location = (await ada.content(asset["assetId"])).headers["location"]
    answer = await ada.api.http.get(location, headers={"Range": wanted})
    refused(answer, 416, "CDV_BAD_REQUEST")
    assert answer.headers["content-range"] == f"bytes */{LENGTH}"


@pytest.mark.parametrize(
    "wanted",
    [
        *("", "bytes=", "bytes=-", "bytes=9-5", "bytes=a-b", "items=0-1", "bytes=0-1,3-4", "bytes=0-1x", "bytes 0-1"),
        *("bytes=\u0660-\u0661", "bytes=1-" + "9" * 99),
    ],
)
async def test_a_range_that_is_none_gets_the_whole(ada: Creator, wanted: str) -> None:
    asset = await ada.uploaded()
    location = (await ada.content(asset["assetId"])).headers["location"]
    answer = await ada.api.http.get(location, headers=httpx.Headers({"Range": wanted}, encoding="utf-8"))
    assert (answer.status_code, answer.content) == (200, PNG)
    assert answer.headers["accept-ranges"] == "bytes"


async def test_a_head_of_a_download_says_its_size(ada: Creator) -> None:
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
