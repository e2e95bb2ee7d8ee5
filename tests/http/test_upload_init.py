"""uploadInit: which uploads are accepted, and which are refused (spec: endpoints, media; domain, media)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.http.api import PNG, Creator, data, refused, serving
from tests.http.media_files import GIF, JPEG, MP4, SHA

MAX = 10 * 1024 * 1024  # spec: media, default limit


@pytest.mark.parametrize("member", ["did", "mimeType", "size"])
async def test_a_missing_required_member_is_refused_by_name(ada: Creator, member: str) -> None:
    missing: dict[str, Any] = {member: ...}
    assert refused(await ada.init(**missing), 400, "CDV_VALIDATION")["details"]["field"] == member


@pytest.mark.parametrize("member", ["did", "mimeType", "sha256", "filename"])
@pytest.mark.parametrize("wrong", [None, True, 0, 1.5, [], {}, ["x"]], ids=str)
async def test_a_text_member_of_another_type_is_refused_by_name(ada: Creator, member: str, wrong: Any) -> None:
    assert refused(await ada.init(**{member: wrong}), 400, "CDV_VALIDATION")["details"]["field"] == member


@pytest.mark.parametrize("wrong", [None, True, False, 0, -1, -(2**64), 1.5, 0.0, -0.0, "1", "", [], {}, [1]], ids=str)
async def test_a_size_that_is_no_positive_integer_is_refused(ada: Creator, wrong: Any) -> None:
    assert refused(await ada.init(size=wrong), 400, "CDV_VALIDATION")["details"]["field"] == "size"


@pytest.mark.parametrize("size", [MAX + 1, 2**53 + 1, 2**63, 2**64, 10**30, 1e30])
async def test_a_size_over_the_limit_is_refused(ada: Creator, size: float) -> None:
    error = refused(await ada.init(size=size), 400, "CDV_MEDIA_SIZE")
    assert error["details"] == {"field": "size", "size": size, "max": MAX}


@pytest.mark.parametrize("size", [1, MAX, 1.0, 4e2])
async def test_sizes_within_the_limits_are_accepted_in_every_number_format(ada: Creator, size: float) -> None:
    assert data(await ada.init(size=size))


async def test_a_size_that_overflows_is_refused(ada: Creator) -> None:
    for size in (b"1e400", b"-1e400", b"1" * 5000):
        body = b'{"did":"%s","mimeType":"image/png","size":%s}' % (ada.did.encode(), size)
        answer = await ada.post("/v1/media/uploadInit", body)
        refused(answer, 400, "CDV_VALIDATION")


@pytest.mark.parametrize(
    "mime_type",
    [
        *("", "image", "image/", "/png", "image/svg+xml", "text/html", "application/json", "image/png; charset=x"),
        *(" image/png", "image/png\x00", "image/pngx", "image/*", "*/*", "x" * 5000, "\u2028"),
    ],
)
async def test_a_media_type_that_is_not_allowed_is_refused(ada: Creator, mime_type: str) -> None:
    error = refused(await ada.init(mimeType=mime_type), 400, "CDV_MEDIA_TYPE")
    assert error["details"]["allowed"] == ["image/gif", "image/jpeg", "image/png", "video/mp4"]


@pytest.mark.parametrize(
    ("mime_type", "content"),
    [("image/png", PNG), ("image/jpeg", JPEG), ("image/gif", GIF), ("video/mp4", MP4), ("IMAGE/PNG", PNG)],
)
async def test_every_allowed_media_type_can_be_uploaded_and_finalised(
    ada: Creator, mime_type: str, content: bytes
) -> None:
    asset = await ada.uploaded(content, mimeType=mime_type)
    assert asset["mimeType"] == mime_type.lower()


@pytest.mark.parametrize(
    "sha256", ["", "x", SHA[:-1], f"{SHA}0", "g" * 64, f" {SHA}", f"{SHA}\n", f"0x{SHA[:62]}", "\u0660" * 64]
)
async def test_an_invalid_sha_256_is_refused(ada: Creator, sha256: str) -> None:
    assert refused(await ada.init(sha256=sha256), 400, "CDV_VALIDATION")["details"]["field"] == "sha256"
    ticket = await ada.staged()
    if sha256:
        answer = await ada.finalize(ticket["assetId"], sha256)
        assert refused(answer, 400, "CDV_VALIDATION")["details"]["field"] == "sha256"


async def test_a_sha_256_is_case_insensitive(ada: Creator) -> None:
    ticket = await ada.staged(sha256=SHA.upper())
    asset = data(await ada.finalize(ticket["assetId"], SHA.upper()))
    assert asset["checksum"] == SHA
    assert data(await ada.finalize(ticket["assetId"], SHA)) == asset


async def test_an_upload_for_another_did_is_refused(ada: Creator, bob: Creator) -> None:
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
async def test_any_other_file_name_is_returned_and_never_used_as_a_path(ada: Creator, filename: str) -> None:
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


async def test_configured_sizes_and_media_types_replace_the_defaults(tmp_path: Path) -> None:
    async with serving(tmp_path, max_media_size=4, allowed_mime_types=("text/plain", "image/svg+xml")) as api:
        owner = api.creator()
        refused(await owner.init(b"12345", mimeType="text/plain"), 400, "CDV_MEDIA_SIZE")
        refused(await owner.init(b"1234"), 400, "CDV_MEDIA_TYPE")
        for mime_type in ("text/plain", "image/svg+xml"):
            asset = await owner.uploaded(b"1234", mimeType=mime_type, filename="a b.txt")
            download = await api.http.get((await owner.content(asset["assetId"])).headers["location"])
            # SVG can run scripts, so it is not served inline as an image.
            assert download.headers["content-disposition"] == 'attachment; filename="a b.txt"'
            assert download.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in download.headers["content-security-policy"]
