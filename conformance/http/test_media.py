"""Media from the first word to the last byte."""

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
from conformance.http.vault import ASSET, FINALIZE, PNG, Creator, Upload, Vault, at_once, data, refused

MAGIC = {  # as these types begin
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00",
    "image/gif": b"GIF89a",
    "video/mp4": b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom",
}
_CONTENTS = st.tuples(st.sampled_from([*MAGIC]), st.binary(max_size=300)).map(lambda it: (it[0], MAGIC[it[0]] + it[1]))
OTHERS = {  # what no page should show, where a vault takes it at all
    "application/pdf": b"%PDF-1.7\n",
    "text/plain": b"hello, world\n",
    "application/octet-stream": b"\x00\x01\x02",
    "application/zip": b"PK\x05\x06" + bytes(18),
    "text/csv": b"a,b\r\n",
    "application/json": b"{}\n",
}
HUGE_BYTES = 2**50
NOBODYS_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@judges("MEDIA-001")
def test_an_upload_begins_with_a_ticket(ada: Creator):
    ticket = data(ada.init())

    assert {"assetId", "uploadUrl", "expiresAt"} <= set(ticket)
    assert ticket["uploadUrl"].startswith(("http://", "https://")), ticket["uploadUrl"]
    # By the target's own clock, which may be another than ours.
    assert datetime.fromisoformat(ticket["expiresAt"]) > datetime.fromisoformat(ada.created()["indexedAt"])
    assert data(ada.init())["assetId"] != ticket["assetId"]


@judges("MEDIA-002", "MEDIA-003", "MEDIA-004", "MEDIA-005", "MEDIA-019")
@for_all(cost=2, upload=_CONTENTS, declared=st.booleans())
def test_what_was_uploaded_is_served(ada: Creator, bob: Creator, upload: tuple[str, bytes], declared: bool):
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
            answer = reader.content(staged.asset_id)
            assert answer.status_code == 200, answer.status_code
            assert answer.content == content, "other bytes than were uploaded"
        with clause("MEDIA-019"):
            assert data(reader.meta(staged.asset_id)) == asset


@judges("MEDIA-005")
def test_a_download_url_counts_as_it_was_signed(ada: Creator):
    asset = ada.finalized()
    path = f"/v1/media/{asset['assetId']}/content"
    answer = ada.vault.send("GET", path, by=ada)
    if answer.status_code == 200:
        not_judged("the bytes come directly, by no URL of their own")
    assert answer.status_code == 307, answer.status_code
    url = str(answer.url.join(answer.headers["location"]))

    for other in forged(url):
        assert PNG not in ada.vault.send("GET", other).content, "the bytes come without their URL's signature"


_SIGNATURE = re.compile(r"(?i)((?:^|&)[^=&]*(?:signature|sig)=)([^&]+)")


def forged(url: str) -> list[str]:
    """Return the URL without what signs it, and with a character of that changed."""
    whole, _, query = url.partition("?")
    if not query:
        return [f"{whole[:-4]}{_another(whole[-4])}{whole[-3:]}"]  # the last one's bits may not all count
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
        refused(ada.finalize(upload.asset_id, sha256(b"other")), 409, "CDV_CONFLICT")
        assert data(ada.meta(upload.asset_id)) == data(first)


@judges("MEDIA-008")
def test_finalising_what_was_not_uploaded_is_a_conflict(ada: Creator):
    upload = ada.upload()

    error = refused(ada.finalize(upload.asset_id, upload.sha256), 409, "CDV_CONFLICT")

    assert (error.get("details") or {}).get("reason") == "not_uploaded", error


@judges("MEDIA-009", "MEDIA-012")
@for_all(cost=2, wrong=st.sampled_from([sha256(b""), sha256(b"other"), "0" * 64]))
def test_the_hash_must_be_the_bytes(ada: Creator, wrong: str):
    upload = ada.staged()

    with clause("MEDIA-009"):
        refused(ada.finalize(upload.asset_id, wrong), 400, "CDV_MEDIA_CHECKSUM")
    with clause("MEDIA-012"):
        assert data(ada.meta(upload.asset_id)).get("status") == "pending"
        assert ada.put(upload).is_success, "the upload URL takes no second PUT while the asset is pending"
        data(ada.finalize(upload.asset_id, upload.sha256))


@judges("MEDIA-010", "MEDIA-012")
@for_all(every=True, difference=st.sampled_from([-1, 1, -100, 1000]))
def test_the_size_must_be_the_declared_one(ada: Creator, difference: int):
    content = PNG + b"x" * difference if difference > 0 else PNG[:difference]
    upload = ada.upload(PNG)

    with clause("MEDIA-010"):
        put = ada.put(upload, content)
        answer = ada.finalize(upload.asset_id, sha256(content))
        if put.is_success:
            refused(answer, 400, "CDV_MEDIA_SIZE")
        else:
            # It was refused on the way: nothing has been uploaded, or something that is not this.
            assert answer.status_code in {400, 409}, answer.status_code
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
            refused(ada.finalize(upload.asset_id, upload.sha256), 400, "CDV_MEDIA_TYPE")
    good = (MAGIC[declared] + b"x" * 60)[: len(content)]
    with clause("MEDIA-012"):
        assert ada.put(upload, good).is_success
        data(ada.finalize(upload.asset_id, sha256(good)))


@judges("MEDIA-013")
def test_a_declared_hash_binds(ada: Creator):
    other = PNG[:-1] + b"!"
    upload = ada.upload(PNG, sha256=sha256(PNG))
    if ada.put(upload, other).is_success:
        answer = ada.finalize(upload.asset_id, sha256(other))
        refused(
            answer,
            answer.status_code if answer.status_code in {400, 409} else 400,
            "CDV_MEDIA_CHECKSUM",
            "CDV_CONFLICT",
        )
    assert ada.meta(upload.asset_id).json()["data"].get("status") == "pending"


@judges("MEDIA-014", "MEDIA-015")
@for_all(cost=2, kind=st.sampled_from(["text/html", "application/x-msdownload", "image/svg+xml", "text/javascript"]))
def test_what_is_not_allowed_does_not_begin(ada: Creator, kind: str):
    with clause("MEDIA-014"):
        refused(ada.init(size=HUGE_BYTES), 400, "CDV_MEDIA_SIZE")
    with clause("MEDIA-015"):
        refused(ada.init(mimeType=kind), 400, "CDV_MEDIA_TYPE")


_BAD_INITS: list[dict[str, Any]] = [
    *({"size": 0}, {"size": -1}, {"size": 1.5}, {"size": "10"}, {"size": None}, {"size": ...}, {"size": True}),
    *({"sha256": "abc"}, {"sha256": "g" * 64}, {"sha256": "a" * 63}, {"sha256": "a" * 65}, {"sha256": 1}),
    *({"mimeType": ...}, {"mimeType": 1}, {"did": ...}, {"did": 1}, {"did": "nobody"}, {"filename": 1}),
    *({"extra": 1}, {"fileName": "a.png"}, {"Size": 10}),
]


@judges("MEDIA-016")
@for_all(every=True, change=st.sampled_from(_BAD_INITS))
def test_a_bad_ticket_is_refused(ada: Creator, change: dict[str, Any]):
    refused(ada.init(**change), 400, "CDV_VALIDATION")


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
def test_a_bad_finalize_is_refused(vault: Vault, ada: Creator, change: dict[str, Any]):
    upload = ada.staged()
    body = {"assetId": upload.asset_id, "sha256": upload.sha256, **change}
    sent = {name: value for name, value in body.items() if value is not ...}

    refused(vault.send("POST", FINALIZE, by=ada, body=sent), 400, "CDV_VALIDATION")


@judges("MEDIA-017", "MEDIA-020", "MEDIA-023")
def test_a_pending_asset_is_its_owners_own(ada: Creator, bob: Creator):
    for upload in (ada.upload(), ada.staged()):
        with clause("MEDIA-017"):
            refused(bob.finalize(upload.asset_id, upload.sha256), 403, "CDV_DID_MISMATCH")
        with clause("MEDIA-020"):
            pending = data(ada.meta(upload.asset_id))
            assert pending.get("status") == "pending"
            assert (pending.get("mimeType"), pending.get("size")) == ("image/png", len(PNG))
            refused(bob.meta(upload.asset_id), 404, "CDV_NOT_FOUND")
        with clause("MEDIA-023"):
            for anyone in (ada, bob):
                assert 400 <= anyone.content(upload.asset_id).status_code < 500


@judges("MEDIA-018")
@for_all(cost=2, asset_id=st.sampled_from([NOBODYS_ID]) | st.from_regex(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", fullmatch=True))
def test_an_asset_nobody_has_is_not_found(ada: Creator, asset_id: str):
    refused(ada.finalize(asset_id, sha256(PNG)), 404, "CDV_NOT_FOUND")
    refused(ada.meta(asset_id), 404, "CDV_NOT_FOUND")
    refused(ada.content(asset_id), 404, "CDV_NOT_FOUND")


@judges("MEDIA-021")
@for_all(cost=2, other=st.sampled_from([PNG[:-1] + b"!", MAGIC["image/gif"] + b"x", b"", PNG + b"more"]))
def test_the_old_url_changes_nothing(ada: Creator, bob: Creator, other: bytes):
    upload = ada.staged()
    asset = data(ada.finalize(upload.asset_id, upload.sha256))

    ada.put(upload, other)

    for reader in (ada, bob):
        assert reader.content(upload.asset_id).content == PNG, "the old upload URL changed the asset"
    assert data(ada.meta(upload.asset_id)) == asset
    assert data(ada.finalize(upload.asset_id, upload.sha256)) == asset


@judges("MEDIA-022")
@pytest.mark.parametrize("attempt", range(3))
def test_an_upload_that_races_with_finalize_never_changes_what_was_proved(ada: Creator, attempt: int):
    upload = ada.staged()
    others = [PNG[:-8] + secrets.token_bytes(8) for _ in range(4)]

    def act(content: bytes) -> None:
        if content:
            ada.put(upload, content)
        else:
            ada.finalize(upload.asset_id, upload.sha256)

    at_once(act, [b"", *others])

    meta = data(ada.meta(upload.asset_id))
    if meta.get("status") != "pending":
        served = ada.content(upload.asset_id).content
        assert sha256(served) == str(meta["checksum"]).removeprefix("sha256:"), "the bytes are not the checksum's"
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
    answer = ada.init(filename=name)
    if answer.status_code == 400:
        return
    ticket = data(answer)
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
def test_finalisations_at_once_agree(ada: Creator, attempt: int):
    upload = ada.staged()

    answers = at_once(lambda _: ada.finalize(upload.asset_id, upload.sha256), range(8))

    assert all(data(answer) == data(answers[0]) for answer in answers)


@judges("MEDIA-026")
@for_all(cost=2, kind=st.sampled_from([*MAGIC]))
def test_content_is_served_without_guessing(ada: Creator, kind: str):
    asset = ada.finalized(MAGIC[kind] + b"x" * 50, mimeType=kind, filename="a.html")

    answer = ada.content(asset["assetId"])

    assert answer.status_code == 200
    assert answer.headers.get("content-type", "").partition(";")[0] == kind
    first = ada.vault.send("GET", f"/v1/media/{asset['assetId']}/content", by=ada)
    assert first.headers.get("x-content-type-options", "").lower() == "nosniff"


@judges("MEDIA-027")
def test_what_no_page_should_show_is_an_attachment(ada: Creator):
    taken = 0
    for kind, content in OTHERS.items():
        begun = ada.init(content, mimeType=kind, filename="a.html")
        if begun.status_code == 400:
            continue  # a type that this vault does not take
        ticket = data(begun)
        upload = Upload(ticket["assetId"], ticket["uploadUrl"], content)
        if not ada.put(upload).is_success or ada.finalize(upload.asset_id, upload.sha256).status_code == 400:
            continue  # taken for something else
        taken += 1
        answer = ada.content(upload.asset_id)
        assert answer.status_code == 200, answer.status_code
        shown = answer.headers.get("content-disposition", "")
        assert shown.partition(";")[0].strip().lower() == "attachment", f"{kind}: Content-Disposition is {shown!r}"
    if not taken:
        not_judged(f"the target takes none of {', '.join(OTHERS)}")
