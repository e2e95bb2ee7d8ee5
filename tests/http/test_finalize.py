"""Finalize: uploaded bytes become permanent, or are refused (spec: endpoints, media; domain, media)."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from tests.http.api import PNG, Creator, data, refused
from tests.http.media_files import JPEG, SHA, UNKNOWN, put


@pytest.mark.parametrize("member", ["assetId", "sha256"])
@pytest.mark.parametrize("wrong", [..., None, True, 0, 1.5, [], {}, ["x"]], ids=str)
async def test_a_missing_or_wrongly_typed_member_is_refused_by_name(ada: Creator, member: str, wrong: Any) -> None:
    good: dict[str, Any] = {"assetId": UNKNOWN, "sha256": SHA, member: wrong}
    body = {name: value for name, value in good.items() if value is not ...}
    answer = await ada.api.http.post("/v1/media/finalize", json=body, headers=ada.auth)
    assert refused(answer, 400, "CDV_VALIDATION")["details"]["field"] == member


async def test_an_unknown_asset_is_not_found(ada: Creator) -> None:
    for asset_id in (UNKNOWN, "nope", "", UNKNOWN.lower(), "\x00", "../x"):
        refused(await ada.finalize(asset_id), 404, "CDV_NOT_FOUND")
    refused(await ada.meta(UNKNOWN), 404, "CDV_NOT_FOUND")
    refused(await ada.content(UNKNOWN), 404, "CDV_NOT_FOUND")


async def test_finalising_before_the_upload_is_refused_with_409(ada: Creator) -> None:
    ticket = data(await ada.init())
    error = refused(await ada.finalize(ticket["assetId"]), 409, "CDV_CONFLICT")
    assert error["details"]["reason"] == "not_uploaded"
    assert (await ada.api.http.put(ticket["uploadUrl"], content=PNG)).status_code == 200
    assert data(await ada.finalize(ticket["assetId"]))


async def test_finalising_again_returns_the_same_response(ada: Creator) -> None:
    ticket = await ada.staged(filename="x.png")
    first = await ada.finalize(ticket["assetId"])
    assert data(first)
    for _ in range(2):
        assert (await ada.finalize(ticket["assetId"])).content == first.content


async def test_concurrent_finalisations_return_one_response(ada: Creator) -> None:
    ticket = await ada.staged()
    answers = await asyncio.gather(*(ada.finalize(ticket["assetId"]) for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


async def test_finalising_again_with_another_hash_is_refused_with_409(ada: Creator) -> None:
    asset = await ada.uploaded()
    error = refused(await ada.finalize(asset["assetId"], "0" * 64), 409, "CDV_CONFLICT")
    assert error["details"] == {"reason": "finalized_with_another_hash", "assetId": asset["assetId"]}
    assert data(await ada.meta(asset["assetId"])) == asset


async def test_finalising_another_dids_asset_is_refused(ada: Creator, bob: Creator) -> None:
    pending, final = await ada.staged(), await ada.uploaded()
    for asset in (pending, final):
        error = refused(await bob.finalize(asset["assetId"]), 403, "CDV_DID_MISMATCH")
        assert error["details"]["field"] == "assetId"
    assert data(await ada.finalize(pending["assetId"]))


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
async def test_a_refused_media_type_reports_the_detected_type(
    ada: Creator, declared: str, content: bytes, detected: str
) -> None:
    ticket = data(await ada.init(content, mimeType=declared))
    assert await put(ada, ticket, content) == 200
    error = refused(await ada.finalize(ticket["assetId"], hashlib.sha256(content).hexdigest()), 400, "CDV_MEDIA_TYPE")
    assert error["details"] == {"field": "mimeType", "declared": declared, "detected": detected}


async def test_bytes_that_do_not_match_the_sha256_sent_to_init_are_refused(ada: Creator) -> None:
    ticket = await ada.staged(sha256="0" * 64)
    refused(await ada.finalize(ticket["assetId"]), 400, "CDV_MEDIA_CHECKSUM")
    refused(await ada.finalize(ticket["assetId"], "0" * 64), 400, "CDV_MEDIA_CHECKSUM")


async def test_bytes_without_a_known_signature_are_accepted_as_the_declared_type(ada: Creator) -> None:
    assert (await ada.uploaded(b"no signature here"))["size"] == 17


async def test_an_upload_over_the_size_limit_is_refused_and_earlier_bytes_are_kept(ada: Creator) -> None:
    ticket = data(await ada.init())
    too_large = b"x" * (10 * 1024**2 + 1)
    refused(await ada.api.http.put(ticket["uploadUrl"], content=too_large), 400, "CDV_MEDIA_SIZE")
    assert refused(await ada.finalize(ticket["assetId"]), 409, "CDV_CONFLICT")["details"]["reason"] == "not_uploaded"
    assert await put(ada, ticket, PNG) == 200
    refused(await ada.api.http.put(ticket["uploadUrl"], content=too_large), 400, "CDV_MEDIA_SIZE")
    assert data(await ada.finalize(ticket["assetId"]))  # the earlier upload is still there
