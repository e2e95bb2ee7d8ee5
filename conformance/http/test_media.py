"""Tests of media: uploadInit, upload, finalize, metadata and content."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import strategies as st

from conformance.http.profiles import for_all
from conformance.http.requirements import clause, judges, not_judged
from conformance.http.vault import ASSET, FINALIZE, PNG, Creator, Upload, Vault, concurrently, data, expect_error

MAGIC = {  # the first bytes of files of these types
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    "image/gif": b"GIF89a",
    "video/mp4": b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom",
}
_CONTENTS = st.tuples(st.sampled_from([*MAGIC]), st.binary(max_size=300)).map(lambda it: (it[0], MAGIC[it[0]] + it[1]))
ATTACHMENTS = {  # types that must not be shown inline, with a content; a vault need not accept them
    "application/pdf": b"%PDF-1.7\n",
    "text/plain": b"hello, world\n",
    "application/octet-stream": b"\x00\x01\x02",
    "application/zip": b"PK\x05\x06" + bytes(18),
    "text/csv": b"a,b\r\n",
    "application/json": b"{}\n",
}
HUGE_BYTES = 2**50
UNKNOWN_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@judges("MEDIA-001")
def test_upload_init_returns_an_upload_url(ada: Creator):
    ticket = data(ada.init())

    assert {"assetId", "uploadUrl", "expiresAt"} <= set(ticket)
    assert ticket["uploadUrl"].startswith(("http://", "https://")), ticket["uploadUrl"]
    # Compared by the target's clock, which may differ from ours.
    assert datetime.fromisoformat(ticket["expiresAt"]) > datetime.fromisoformat(ada.created()["indexedAt"])
    assert data(ada.init())["assetId"] != ticket["assetId"]


@judges("MEDIA-002", "MEDIA-003", "MEDIA-004", "MEDIA-005", "MEDIA-019")
@for_all(cost=2, upload=_CONTENTS, declared=st.booleans())
def test_the_uploaded_bytes_are_served(ada: Creator, bob: Creator, upload: tuple[str, bytes], declared: bool):
    kind, content = upload
    members = {"mimeType": kind, "filename": "holiday.bin", **({"sha256": sha256(content)} if declared else {})}
    with clause("MEDIA-002"):
        staged = ada.staged(content, **members)

    asset = data(ada.finalize(staged.asset_id, staged.sha256))

    with clause("MEDIA-003"):
        expected = {"assetId": staged.asset_id, "mimeType": kind, "size": len(content), "filename": "holiday.bin"}
        assert {name: asset.get(name) for name in expected} == expected
        assert str(asset.get("checksum")).removeprefix("sha256:") == staged.sha256
        assert "createdAt" in asset
    with clause("MEDIA-004"):
        assert asset.get("uri") == f"at://{ada.did}/{ASSET}/{staged.asset_id}"
    for reader in (ada, bob):
        with clause("MEDIA-005"):
            response = reader.content(staged.asset_id)
            assert response.status_code == 200, response.status_code
            assert response.content == content, "the served bytes differ from the uploaded ones"
        with clause("MEDIA-019"):
            assert data(reader.meta(staged.asset_id)) == asset


@judges("MEDIA-005")
def test_a_download_url_works_only_with_its_signature(ada: Creator):
    asset = ada.finalized()
    path = f"/v1/media/{asset['assetId']}/content"
    response = ada.vault.send("GET", path, by=ada)
    if response.status_code == 200:
        not_judged("the target serves the bytes itself instead of redirecting to a signed URL")
    assert response.status_code == 307, response.status_code
    url = str(response.url.join(response.headers["location"]))

    for other in forged(url):
        assert PNG not in ada.vault.send("GET", other).content, (
            "a URL with an altered or missing signature serves the bytes"
        )


_SIGNATURE = re.compile(r"(?i)((?:^|&)[^=&]*(?:signature|sig)=)([^&]+)")


def forged(url: str) -> list[str]:
    """Return the URL without its query, and with one character of its signature changed."""
    whole, _, query = url.partition("?")
    if not query:
        return [
            f"{whole[:-4]}{_another(whole[-4])}{whole[-3:]}"
        ]  # not the last character, some of whose bits may be unused
    found = _SIGNATURE.search(query)
    place = found.start(2) if found else len(query) - 4
    return [whole, f"{whole}?{query[:place]}{_another(query[place])}{query[place + 1 :]}"]


def _another(character: str) -> str:
    return "b" if character == "a" else "a"


@judges("MEDIA-003")
def test_no_filename_is_invented(ada: Creator):
    assert "filename" not in ada.finalized()


@judges("MEDIA-006", "MEDIA-007")
def test_finalising_again_gives_the_first_answer_or_a_conflict(ada: Creator):
    upload = ada.staged()
    first = ada.finalize(upload.asset_id, upload.sha256)
    data(first)

    with clause("MEDIA-006"):
        assert data(ada.finalize(upload.asset_id, upload.sha256)) == data(first)
    with clause("MEDIA-007"):
        expect_error(ada.finalize(upload.asset_id, sha256(b"other")), 409, "CDV_CONFLICT")
        assert data(ada.meta(upload.asset_id)) == data(first)


@judges("MEDIA-008")
def test_finalising_what_was_not_uploaded_is_a_conflict(ada: Creator):
    upload = ada.upload()

    error = expect_error(ada.finalize(upload.asset_id, upload.sha256), 409, "CDV_CONFLICT")

    assert (error.get("details") or {}).get("reason") == "not_uploaded", error


@judges("MEDIA-009", "MEDIA-012")
@for_all(cost=2, wrong=st.sampled_from([sha256(b""), sha256(b"other"), "0" * 64]))
def test_the_hash_must_match_the_bytes(ada: Creator, wrong: str):
    upload = ada.staged()

    with clause("MEDIA-009"):
        expect_error(ada.finalize(upload.asset_id, wrong), 400, "CDV_MEDIA_CHECKSUM")
    with clause("MEDIA-012"):
        assert data(ada.meta(upload.asset_id)).get("status") == "pending"
        assert ada.put(upload).is_success, "the upload URL refuses a second PUT while the asset is pending"
        data(ada.finalize(upload.asset_id, upload.sha256))


@judges("MEDIA-010", "MEDIA-012")
@for_all(every=True, difference=st.sampled_from([-1, 1, -100, 1000]))
def test_the_size_must_be_the_declared_one(ada: Creator, difference: int):
    content = PNG + b"x" * difference if difference > 0 else PNG[:difference]
    upload = ada.upload(PNG)

    with clause("MEDIA-010"):
        put = ada.put(upload, content)
        response = ada.finalize(upload.asset_id, sha256(content))
        if put.is_success:
            expect_error(response, 400, "CDV_MEDIA_SIZE")
        else:
            # The store refused the upload, so finalize finds nothing, or an earlier upload.
            assert response.status_code in {400, 409}, response.status_code
    with clause("MEDIA-012"):
        assert ada.put(upload).is_success
        data(ada.finalize(upload.asset_id, upload.sha256))


@judges("MEDIA-011", "MEDIA-012")
@for_all(cost=2, kinds=st.permutations([*MAGIC]), hidden=st.sampled_from([b"", b"<html><script>", b"%PDF-1.7"]))
def test_the_type_must_be_the_declared_one(ada: Creator, kinds: list[str], hidden: bytes):
    declared, shown = kinds[:2]
    content = (hidden or MAGIC[shown]) + b"x" * 40
    upload = ada.upload(content, mimeType=declared)
    with clause("MEDIA-011"):
        if ada.put(upload).is_success:
            expect_error(ada.finalize(upload.asset_id, upload.sha256), 400, "CDV_MEDIA_TYPE")
    good = (MAGIC[declared] + b"x" * 60)[: len(content)]
    with clause("MEDIA-012"):
        assert ada.put(upload, good).is_success
        data(ada.finalize(upload.asset_id, sha256(good)))


@judges("MEDIA-013")
def test_bytes_other_than_the_declared_hash_are_refused(ada: Creator):
    other = PNG[:-1] + b"!"
    upload = ada.upload(PNG, sha256=sha256(PNG))
    if ada.put(upload, other).is_success:
        response = ada.finalize(upload.asset_id, sha256(other))
        expect_error(
            response,
            response.status_code if response.status_code in {400, 409} else 400,
            "CDV_MEDIA_CHECKSUM",
            "CDV_CONFLICT",
        )
    assert ada.meta(upload.asset_id).json()["data"].get("status") == "pending"


@judges("MEDIA-014", "MEDIA-015")
@for_all(cost=2, kind=st.sampled_from(["text/html", "application/x-msdownload", "image/svg+xml", "text/javascript"]))
def test_a_disallowed_type_or_size_is_refused_at_init(ada: Creator, kind: str):
    with clause("MEDIA-014"):
        expect_error(ada.init(size=HUGE_BYTES), 400, "CDV_MEDIA_SIZE")
    with clause("MEDIA-015"):
        expect_error(ada.init(mimeType=kind), 400, "CDV_MEDIA_TYPE")


_BAD_INITS: list[dict[str, Any]] = [
    *({"size": 0}, {"size": -1}, {"size": 1.5}, {"size": "10"}, {"size": None}, {"size": ...}, {"size": True}),
    *({"sha256": "abc"}, {"sha256": "g" * 64}, {"sha256": "a" * 63}, {"sha256": "a" * 65}, {"sha256": 1}),
    *({"mimeType": ...}, {"mimeType": 1}, {"did": ...}, {"did": 1}, {"did": "nobody"}, {"filename": 1}),
    *({"extra": 1}, {"fileName": "a.png"}, {"Size": 10}),
]


@judges("MEDIA-016")
@for_all(every=True, change=st.sampled_from(_BAD_INITS))
def test_an_invalid_init_is_refused(ada: Creator, change: dict[str, Any]):
    expect_error(ada.init(**change), 400, "CDV_VALIDATION")


@judges("MEDIA-016")
@for_all(
    every=True,
    change=st.sampled_from(
        [
            {"sha256": "abc"},
            {"sha256": ...},
            {"sha256": "z" * 64},
            {"extra": 1},
            {"assetId": ...},
            {"assetId": 1},
            {"sha256": None},
        ]
    ),
)
def test_an_invalid_finalize_is_refused(vault: Vault, ada: Creator, change: dict[str, Any]):
    upload = ada.staged()
    body = {"assetId": upload.asset_id, "sha256": upload.sha256, **change}
    sent = {name: value for name, value in body.items() if value is not ...}

    expect_error(vault.send("POST", FINALIZE, by=ada, body=sent), 400, "CDV_VALIDATION")


@judges("MEDIA-017", "MEDIA-020", "MEDIA-023")
def test_a_pending_asset_is_visible_to_its_owner_only(ada: Creator, bob: Creator):
    for upload in (ada.upload(), ada.staged()):
        with clause("MEDIA-017"):
            expect_error(bob.finalize(upload.asset_id, upload.sha256), 403, "CDV_DID_MISMATCH")
        with clause("MEDIA-020"):
            pending = data(ada.meta(upload.asset_id))
            assert pending.get("status") == "pending"
            assert (pending.get("mimeType"), pending.get("size")) == ("image/png", len(PNG))
            expect_error(bob.meta(upload.asset_id), 404, "CDV_NOT_FOUND")
        with clause("MEDIA-023"):
            for anyone in (ada, bob):
                assert 400 <= anyone.content(upload.asset_id).status_code < 500


@judges("MEDIA-018")
@for_all(cost=2, asset_id=st.sampled_from([UNKNOWN_ID]) | st.from_regex(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", fullmatch=True))
def test_an_unknown_asset_is_not_found(ada: Creator, asset_id: str):
    expect_error(ada.finalize(asset_id, sha256(PNG)), 404, "CDV_NOT_FOUND")
    expect_error(ada.meta(asset_id), 404, "CDV_NOT_FOUND")
    expect_error(ada.content(asset_id), 404, "CDV_NOT_FOUND")


@judges("MEDIA-021")
@for_all(cost=2, other=st.sampled_from([PNG[:-1] + b"!", MAGIC["image/gif"] + b"x", b"", PNG + b"more"]))
def test_the_upload_url_cannot_change_a_finalised_asset(ada: Creator, bob: Creator, other: bytes):
    upload = ada.staged()
    asset = data(ada.finalize(upload.asset_id, upload.sha256))

    ada.put(upload, other)

    for reader in (ada, bob):
        assert reader.content(upload.asset_id).content == PNG, (
            "a PUT to the upload URL after finalize changed the asset"
        )
    assert data(ada.meta(upload.asset_id)) == asset
    assert data(ada.finalize(upload.asset_id, upload.sha256)) == asset


@judges("MEDIA-022")
@pytest.mark.parametrize("attempt", range(3))
def test_a_concurrent_upload_never_changes_the_verified_bytes(ada: Creator, attempt: int):
    upload = ada.staged()
    others = [PNG[:-8] + secrets.token_bytes(8) for _ in range(4)]

    def act(content: bytes) -> None:
        if content:
            ada.put(upload, content)
        else:
            ada.finalize(upload.asset_id, upload.sha256)

    concurrently(act, [b"", *others])

    meta = data(ada.meta(upload.asset_id))
    if meta.get("status") != "pending":
        served = ada.content(upload.asset_id).content
        assert sha256(served) == str(meta["checksum"]).removeprefix("sha256:"), (
            "the served bytes do not match the checksum"
        )
        assert len(served) == meta["size"]


_NAMES = [
    "../../etc/passwd",
    "..",
    ".",
    "a/b.png",
    "a\\b.png",
    "/",
    "\x01.png",
    "a\nb.png",
    "a\x7f.png",
    "C:\\x.png",
    "x" * 300,
]
_NAMES += [
    "....//",
    "a/../b",
    "/etc/passwd",
    "\u202egnp.exe",
    "a\r\nSet-Cookie: x=1",
    "\x00",
    "",
    "\u00fc" * 200,
    "a;b.png",
    '"a".png',
]


@judges("MEDIA-024")
@for_all(name=st.sampled_from(_NAMES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_a_filename_never_becomes_a_path(ada: Creator, name: str):
    response = ada.init(filename=name)
    if response.status_code == 400:
        return
    ticket = data(response)
    assert ".." not in unquote(ticket["uploadUrl"].partition("?")[0]).split("/"), ticket["uploadUrl"].partition("?")[0]
    ada.vault.send("PUT", ticket["uploadUrl"], content=PNG)
    kept = data(ada.finalize(ticket["assetId"], sha256(PNG))).get("filename", "")

    assert not {"/", "\\"} & {*kept}, kept
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in kept), repr(kept)
    assert kept not in {".", ".."}
    assert len(kept.encode()) <= 255
    assert ada.content(ticket["assetId"]).content == PNG


@judges("MEDIA-025")
@pytest.mark.parametrize("attempt", range(2))
def test_concurrent_finalisations_agree(ada: Creator, attempt: int):
    upload = ada.staged()

    responses = concurrently(lambda _: ada.finalize(upload.asset_id, upload.sha256), range(8))

    assert all(data(response) == data(responses[0]) for response in responses)


@judges("MEDIA-026")
@for_all(cost=2, kind=st.sampled_from([*MAGIC]))
def test_content_has_its_type_and_nosniff(ada: Creator, kind: str):
    asset = ada.finalized(MAGIC[kind] + b"x" * 50, mimeType=kind, filename="a.html")

    response = ada.content(asset["assetId"])

    assert response.status_code == 200
    assert response.headers.get("content-type", "").partition(";")[0] == kind
    first = ada.vault.send("GET", f"/v1/media/{asset['assetId']}/content", by=ada)
    assert first.headers.get("x-content-type-options", "").lower() == "nosniff"


@judges("MEDIA-027")
def test_types_that_browsers_must_not_show_are_attachments(ada: Creator):
    accepted = 0
    for kind, content in ATTACHMENTS.items():
        begun = ada.init(content, mimeType=kind, filename="a.html")
        if begun.status_code == 400:
            continue  # this vault does not accept the type
        ticket = data(begun)
        upload = Upload(ticket["assetId"], ticket["uploadUrl"], content)
        if not ada.put(upload).is_success or ada.finalize(upload.asset_id, upload.sha256).status_code == 400:
            continue  # the vault detects another type
        accepted += 1
        response = ada.content(upload.asset_id)
        assert response.status_code == 200, response.status_code
        shown = response.headers.get("content-disposition", "")
        assert shown.partition(";")[0].strip().lower() == "attachment", f"Content-Disposition of {kind} is {shown!r}"
    if not accepted:
        not_judged(f"the target accepts none of {', '.join(ATTACHMENTS)}")
