"""Names, keys and headers of media."""

import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdv_core.domain.identifiers import AssetId, Did
from cdv_core.domain.media import Asset, Sha256, content_disposition, parse_filename
from cdv_core.domain.media_types import types_shown_by
from cdv_core.errors import InvalidField

NOW = datetime(2026, 11, 24, tzinfo=UTC)
ASSET_ID = AssetId("01KAV3XG8J0000000000000000")


def asset(did: str = "did:plc:a", filename: str | None = "cat.png") -> Asset:
    return Asset(ASSET_ID, Did(did), "image/png", 1, NOW, NOW, filename)


def test_the_uri_and_keys_are_the_contracts():
    assert str(asset().uri) == f"at://did:plc:a/com.registryaccord.media.asset/{ASSET_ID}"
    assert asset().final_key("prod") == f"prod/did:plc:a/{ASSET_ID}/cat.png"
    assert asset(filename=None).final_key("dev") == f"dev/did:plc:a/{ASSET_ID}/media"
    assert asset().staging_key == f"uploads/{ASSET_ID}"


def test_no_environment_name_puts_final_objects_where_uploads_are_swept():
    assert not any(asset().final_key(env).startswith("uploads/") for env in ("dev", "staging", "prod"))


def test_a_long_did_enters_the_key_by_its_hash():
    longest = "did:plc:" + "a" * 192
    assert asset(longest).final_key("prod").startswith(f"prod/{longest}/")
    longer = longest + "a"
    expected = hashlib.sha256(longer.encode()).hexdigest()
    assert asset(longer).final_key("prod") == f"prod/did-{expected}/{ASSET_ID}/cat.png"


@given(st.text())
def test_an_accepted_file_name_is_one_safe_path_segment(text):
    try:
        name = parse_filename(text)
    except InvalidField:
        return
    assert name == text
    assert name not in {"", ".", ".."}
    assert "/" not in name
    assert "\\" not in name
    assert name.isprintable() or not any(ord(character) < 32 for character in name)
    assert len(name.encode()) <= 255


@pytest.mark.parametrize(
    "text", ["cat.png", "über straße.jpg", ".hidden", "a..b", "名前.mp4", "x" * 255, "10:30.png", "a'b\"c.png"]
)
def test_plain_names_are_accepted(text):
    assert parse_filename(text) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "...", " ", ". .", "a/b", "../x", "a\\b", "a\x00b", "a\nb", "a\x7fb", "a\x85b", "\u202egnp.exe",
     "\u2066a",
     "a\ud800", "\u200f", "\u2028", "x" * 256, "é" * 128],
)  # fmt: skip
def test_other_names_are_refused(text):
    with pytest.raises(InvalidField) as caught:
        parse_filename(text)
    assert caught.value.field == "filename"


def test_a_checksum_is_64_hex_characters_and_kept_in_lower_case():
    assert Sha256.parse("AB" * 32) == "ab" * 32
    for text in ["", "ab" * 31, "ab" * 33, "g" * 64, "ab" * 32 + "\n", "٣" * 64]:
        with pytest.raises(InvalidField, match="64 hex characters"):
            Sha256.parse(text)


@pytest.mark.parametrize(
    ("mime_type", "filename", "expected"),
    [
        ("image/png", "cat.png", 'inline; filename="cat.png"'),
        ("video/mp4", None, "inline"),
        ("audio/ogg", None, "inline"),
        ("application/pdf", "a.pdf", 'attachment; filename="a.pdf"'),
        ("text/html", "a.html", 'attachment; filename="a.html"'),
        ("image/svg+xml", "a.svg", 'attachment; filename="a.svg"'),
        ("image/foo+xml", None, "attachment"),
        ("image/svg", None, "attachment"),
        ("application/image/x", None, "attachment"),
        ("image/png", "a&b'c", "inline; filename=\"a_b_c\"; filename*=UTF-8''a%26b%27c"),
        ("image/png", 'a"b;c.png', "inline; filename=\"a_b_c.png\"; filename*=UTF-8''a%22b%3Bc.png"),
        ("image/png", "é.png", "inline; filename=\"_.png\"; filename*=UTF-8''%C3%A9.png"),
    ],
)
def test_only_pictures_sound_and_video_are_shown_and_names_cannot_break_out(mime_type, filename, expected):
    assert content_disposition(mime_type, filename) == expected


@given(st.text().filter(lambda text: text.isprintable() and text), st.sampled_from(["image/png", "text/html"]))
def test_a_disposition_is_one_ascii_header_line(filename, mime_type):
    header = content_disposition(mime_type, filename)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2


@pytest.mark.parametrize(
    ("head", "mime_type"),
    [
        (b"\x89PNG\r\n\x1a\n....", "image/png"),
        (b"\xff\xd8\xff\xe0..JFIF", "image/jpeg"),
        (b"GIF87a..", "image/gif"),
        (b"GIF89a..", "image/gif"),
        (b"RIFF....WEBPVP8 ", "image/webp"),
        (b"RIFF....WAVEfmt ", "audio/wav"),
        (b"\x00\x00\x00\x20ftypisom", "video/mp4"),
        (b"\x1a\x45\xdf\xa3..", "video/webm"),
        (b"OggS....", "audio/ogg"),
        (b"ID3\x04..", "audio/mpeg"),
        (b"fLaC....", "audio/flac"),
        (b"%PDF-1.7", "application/pdf"),
        (b"PK\x03\x04..", "application/zip"),
        (b"\x1f\x8b\x08", "application/gzip"),
        (b"MZ\x90\x00", "application/vnd.microsoft.portable-executable"),
        (b"\x7fELF\x02", "application/x-elf"),
        (b"<!DOCTYPE HTML>", "text/html"),
        (b"\xef\xbb\xbf \n<html>", "text/html"),
        (b"<script>", "text/html"),
        (b"<SVG xmlns", "image/svg+xml"),
        (b"<?xml version", "image/svg+xml"),
        (b"<?xml version", "application/xml"),
    ],
)
def test_bytes_that_show_their_type_are_recognised(head, mime_type):
    assert mime_type in types_shown_by(head)


@pytest.mark.parametrize(
    "head", [b"", b"hello", b"PNG", b"x\x89PNG\r\n\x1a\n", b"RIFF....AVI ", b"html", b"GIF88a", b"\xff\xd8"]
)
def test_bytes_that_show_nothing_are_no_evidence(head):
    assert types_shown_by(head) == frozenset()


@pytest.mark.parametrize(
    ("parse", "text", "field", "reason"),
    [
        (Sha256.parse, "x", "sha256", "not a SHA-256 (64 hex characters)"),
        (
            parse_filename,
            "a/b",
            "filename",
            "not a plain file name (no separators, control characters or dot segments)",
        ),
        (parse_filename, "x" * 256, "filename", "a file name has at most 255 bytes"),
    ],
)
def test_a_refusal_says_which_field_and_what_it_should_be(parse, text, field, reason):
    with pytest.raises(InvalidField) as caught:
        parse(text)
    assert (caught.value.field, caught.value.reason) == (field, reason)
