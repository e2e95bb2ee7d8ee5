"""File names, object keys, headers and types of media."""

import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdv_core.domain.identifiers import AssetId, Did
from cdv_core.domain.media import Asset, Sha256, content_disposition, parse_filename
from cdv_core.domain.media_types import mismatched_type
from cdv_core.errors import InvalidField

NOW = datetime(2026, 11, 24, tzinfo=UTC)
ASSET_ID = AssetId("01KAV3XG8J0000000000000000")


def asset(did: str = "did:plc:a", filename: str | None = "cat.png") -> Asset:
    return Asset(ASSET_ID, Did(did), "image/png", 1, NOW, NOW, filename)


def test_the_uri_and_object_keys_match_the_contract():
    assert str(asset().uri) == f"at://did:plc:a/com.registryaccord.media.asset/{ASSET_ID}"
    assert asset().final_key("prod") == f"prod/did:plc:a/{ASSET_ID}/cat.png"
    assert asset(filename=None).final_key("dev") == f"dev/did:plc:a/{ASSET_ID}/media"
    assert asset().staging_key == f"uploads/{ASSET_ID}"


def test_final_keys_of_every_environment_are_outside_the_uploads_prefix():
    assert not any(asset().final_key(env).startswith("uploads/") for env in ("dev", "staging", "prod"))


def test_a_long_did_is_hashed_in_the_object_key():
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
def test_plain_file_names_are_accepted(text):
    assert parse_filename(text) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "...", " ", ". .", "a/b", "../x", "a\\b", "a\x00b", "a\nb", "a\x7fb", "a\x85b", "\u202egnp.exe",
     "\u2066a",
     "a\ud800", "\u200f", "\u2028", "x" * 256, "é" * 128],
)  # fmt: skip
def test_unsafe_file_names_are_refused(text):
    with pytest.raises(InvalidField) as caught:
        parse_filename(text)
    assert caught.value.field == "filename"


def test_a_checksum_is_64_hex_characters_and_is_lower_cased():
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
def test_only_images_audio_and_video_are_inline_and_file_names_are_escaped(mime_type, filename, expected):
    assert content_disposition(mime_type, filename) == expected


@given(st.text().filter(lambda text: text.isprintable() and text), st.sampled_from(["image/png", "text/html"]))
def test_a_content_disposition_is_one_ascii_line(filename, mime_type):
    header = content_disposition(mime_type, filename)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2


def iso(brand: str) -> bytes:
    return b"\x00\x00\x00\x18ftyp" + brand.encode() + b"\x00\x00\x00\x00mif1isom"


TIFF, BIG_ENDIAN_TIFF = b"II*\x00\x08\x00\x00\x00", b"MM\x00*\x00\x00\x00\x08"
BMP = b"BM\x46\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00\x02\x00\x00\x00"
ZIP = b"PK\x03\x04\x14\x00"
OGG = b"OggS\x00\x02" + b"\x00" * 20
SIGNATURES = [
    (b"\x89PNG\r\n\x1a\n....", "image/png"),
    (b"\xff\xd8\xff\xe0..JFIF", "image/jpeg"),
    (b"GIF87a..", "image/gif"),
    (b"GIF89a..", "image/gif"),
    (b"RIFF....WEBPVP8 ", "image/webp"),
    (b"RIFF....WAVEfmt ", "audio/wav"),
    (b"RIFF....AVI LIST", "video/x-msvideo"),
    (TIFF, "image/tiff"),
    (BIG_ENDIAN_TIFF, "image/tiff"),
    (BMP, "image/bmp"),
    *((iso(brand), "video/mp4") for brand in ("isom", "iso6", "mp41", "mp42", "avc1", "dash", "MSNV", "M4V ", "XYZ ")),
    (iso("M4A "), "audio/mp4"),
    (iso("qt  "), "video/quicktime"),
    (iso("3gp4"), "video/3gpp"),
    (iso("3gp6"), "video/3gpp"),
    *((iso(brand), "image/heic") for brand in ("heic", "heix", "hevc")),
    (iso("mif1"), "image/heif"),
    (iso("avif"), "image/avif"),
    (iso("avis"), "image/avif"),
    (b"\x1a\x45\xdf\xa3..", "video/webm"),
    (OGG, "application/ogg"),
    (b"ID3\x04..", "audio/mpeg"),
    (b"fLaC\x00\x00\x00\x22", "audio/flac"),
    (b"%PDF-1.7", "application/pdf"),
    (ZIP, "application/zip"),
    (b"\x1f\x8b\x08", "application/gzip"),
    (b"7z\xbc\xaf\x27\x1c\x00\x04", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07\x01\x00", "application/vnd.rar"),
    (b"\xfd7zXZ\x00\x00\x04", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd\x04", "application/zstd"),
    (b"\x00asm\x01\x00\x00\x00", "application/wasm"),
    (b"\xca\xfe\xba\xbe\x00\x00\x00\x41", "application/java-vm"),
    (b"MZ\x90\x00", "application/vnd.microsoft.portable-executable"),
    (b"\x7fELF\x02", "application/x-elf"),
    (b"<!DOCTYPE HTML>", "text/html"),
    (b"\xef\xbb\xbf \n<html>", "text/html"),
    (b"<script>", "text/html"),
    (b"<SVG xmlns", "image/svg+xml"),
    (b"<?xml version", "application/xml"),
]


@pytest.mark.parametrize(("head", "mime_type"), SIGNATURES)
def test_content_with_a_known_signature_matches_no_other_type(head, mime_type):
    assert mismatched_type(mime_type, head) is None
    for declared in {"image/png", "image/jpeg", "image/gif", "video/mp4", "audio/mpeg", "text/plain"} - {mime_type}:
        assert mismatched_type(declared, head) == mime_type


@pytest.mark.parametrize(
    ("head", "mime_types"),
    [
        (
            ZIP,
            (
                "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
                "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
                "application/vnd.openxmlformats-officedocument.presentationml.presentation",
                "application/vnd.oasis.opendocument.text",
                "application/epub+zip",
                "application/java-archive",
                "application/vnd.android.package-archive",
                "application/x-zip-compressed",
                "model/vnd.usdz+zip",
                "model/3mf",
            ),
        ),
        (b"\x1f\x8b\x08", ("application/x-gzip", "application/x-compressed-tar")),
        (OGG, ("audio/ogg", "video/ogg", "application/ogg", "audio/opus")),
        (b"\x1a\x45\xdf\xa3", ("video/webm", "audio/webm", "video/x-matroska", "audio/x-matroska", "video/matroska")),
        (TIFF, ("image/x-adobe-dng", "image/x-canon-cr2")),
        (iso("isom"), ("audio/mp4", "video/x-m4v", "audio/x-m4a")),
        (iso("M4A "), ("audio/x-m4a",)),
        (iso("3gp5"), ("audio/3gpp",)),
        (iso("3g2a"), ("video/3gpp2",)),
        (iso("mif1"), ("image/heif", "image/heic", "image/avif")),
        (iso("heic"), ("image/heif",)),
        (b"\x89PNG\r\n\x1a\n", ("image/apng",)),
        (b"<?xml version", ("text/xml", "image/svg+xml", "application/xhtml+xml", "application/atom+xml")),
    ],
)
def test_a_container_signature_matches_every_type_stored_in_that_container(head, mime_types):
    assert {mime_type: mismatched_type(mime_type, head) for mime_type in mime_types} == dict.fromkeys(mime_types)


@pytest.mark.parametrize(
    ("head", "declared"),
    [
        (ZIP, "application/pdf"),
        (ZIP, "application/xml"),
        (TIFF, "image/x-png"),
        (iso("isom"), "video/quicktime"),
        (iso("qt  "), "video/mp4"),
        (iso("heic"), "image/avif"),
        (iso("M4A "), "video/mp4"),
        (iso("isom"), "video/x-matroska"),
    ],
)
def test_a_container_signature_does_not_match_other_types(head, declared):
    assert mismatched_type(declared, head) is not None


@pytest.mark.parametrize(
    "head",
    [b"", b"hello", b"PNG", b"x\x89PNG\r\n\x1a\n", b"html", b"GIF88a", b"\xff\xd8", b"RIFF....ABCD", b"....WEBP",
     b"ftypisom", b"BM\x00\x00", b"BM" + b"x" * 30, b"II*", b"MM"],
)  # fmt: skip
def test_content_without_a_known_signature_matches_the_declared_type(head):
    assert mismatched_type("image/png", head) is None


@pytest.mark.parametrize("begins", ["MZ", "ID3", "BM", "II*", "MM", "PK", "OggS", "fLaC", "RIFF", "1234ftypisom"])
@given(rest=st.text(st.characters(min_codepoint=32) | st.sampled_from("\t\r\n\f\x1b")))
def test_text_that_begins_like_a_binary_signature_still_matches_text_types(begins, rest):
    head = f"{begins}{rest}".encode("utf-8", "replace")[:64]
    for declared in ("text/plain", "text/csv", "application/javascript"):
        assert mismatched_type(declared, head) is None


@pytest.mark.parametrize(
    ("parse", "text", "field", "reason"),
    [
        (Sha256.parse, "x", "sha256", "must be a SHA-256 (64 hex characters)"),
        (
            parse_filename,
            "a/b",
            "filename",
            "must be a plain file name (no separators, control characters or dot segments)",
        ),
        (parse_filename, "x" * 256, "filename", "must be at most 255 bytes in UTF-8"),
    ],
)
def test_a_refusal_names_the_field_and_the_expected_form(parse, text, field, reason):
    with pytest.raises(InvalidField) as caught:
        parse(text)
    assert (caught.value.field, caught.value.reason) == (field, reason)
