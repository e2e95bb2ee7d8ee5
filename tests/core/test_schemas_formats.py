"""Formats: valid and invalid texts, and checks in linear time."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdv_core.domain.canonical import cid_of
from cdv_core.domain.formats import FORMATS

VALID = {
    "did": ["did:plc:abc", "did:web:example.com%3A8080", "did:key:z6Mk:x"],
    "nsid": ["com.example.feed.post", "a.b.c"],
    "handle": ["alice.example", "xn--bcher-kva.example", "a.b-c.d1"],
    "at-identifier": ["did:plc:abc", "alice.example"],
    "at-uri": [
        "at://did:plc:abc",
        "at://alice.example",
        "at://did:plc:abc/com.example.post",
        "at://did:plc:abc/com.example.post/01J9ZS8Q5N7G3T4V6W8X9YABCD",
    ],
    "record-key": ["self", "01J9", "a:b~c_d-e.f"],
    "tid": ["3jzfcijpj2z2a", "7777777777777"],
    "date": ["2024-02-29", "0001-01-01"],
    "date-time": ["2024-02-29T23:59:60Z", "1985-04-12t23:20:50.52z", "1996-12-19T16:39:57-08:00"],
    "uri": [
        "https://example.com/a?b=c#d",
        "https://example.com/a?b?c=/#/d?",
        "at://did-plc-abc/com.example",
        "did:plc:abc",
        "urn:isbn:0451450523",
        "mailto:a@example.com",
        "http://[2001:db8::1]:8080/",
        "http://[v1.x:y]/",
        "file:///etc/hosts",
        "x:",
        "http://u:p@h:/%C3%A9",
    ],
    "ipv4": ["127.0.0.1"],
    "ipv6": ["::1", "2001:db8::127.0.0.1"],
    "language": [
        "en", "de-CH-1996", "zh-Hant-TW", "sl-rozaj-biske", "x-whatever", "i-klingon", "EN-gb-OED",
        "en-a-bbb-x-c", "zh-yue-cmn",
    ],
    "cid": [
        cid_of({"a": 1}),
        "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy",
    ],
}  # fmt: skip
INVALID = {
    "did": ["", "did:", "did:plc:", "DID:plc:a", "did:plc:a:", "did:plc:a b", "did:plc:%zz",
        "did:" + "a" * 3000, "did:a:b\n"],
    "nsid": ["com.example", "com.example.", "1.com.x", "com.example.1x", "com..x.y", "com.exämple.post"],
    "handle": ["alice", "alice.1example", "-a.example", "a..example", "a.example.", f"{'a.' * 130}example"],
    "at-identifier": ["did:", "alice", "at://alice.example"],
    "at-uri": [
        "at://", "at:did:plc:abc", "at://did:plc:abc/", "at://did:plc:abc/x", "at://did:plc:abc/com.example.post/",
        "at://did:plc:abc/com.example.post/a/b", "at://did:plc:abc/com.example.post/..", "https://did:plc:abc",
    ],
    "record-key": ["", ".", "..", "a/b", "a b", "é", "x" * 513],
    "tid": ["3jzfcijpj2z2", "3jzfcijpj2z2aa", "zzzzzzzzzzzzz", "3JZFCIJPJ2Z2A"],
    "date": ["2023-02-29", "2024-2-1", "20240201", "2024-02-01T00:00:00Z", "२०२४-०२-०१"],
    "date-time": [
        "2024-02-30T00:00:00Z", "2024-01-01T00:00:00", "2024-01-01", "2024-01-01T24:00:00Z", "2024-01-01T12:00:60Z",
        "2024-01-01T23:59:60+01:00", "2024-01-01T23:59:61Z", "2024-01-01T12:00:77Z",
        "2024-01-01 00:00:00Z", "", "2024-01-01T00:00:00.Z",
    ],
    "uri": ["", "a", "/a/b", "//example.com", "http://a b", "http://é", "http://[::1", "http://[::1]x",
        "http://a:b/", "1a:b", "x:%z", "x:#a#b", "x:a?{b}", "x:a?b#{c}", "http://h/{a}", "x:a b?c"],
    "ipv4": ["", "1.2.3", "1.2.3.256", "01.2.3.4", "1.2.3.4 ", "१.2.3.4"],
    "ipv6": ["", "::1%eth0", "1::2::3", "12345::"],
    "language": ["", "e", "en_GB", "en-", "-en", "en--GB", "a-b", "abcdefghi", "en-x", "é"],
    "cid": [
        "", "b", "bafy", "zdpuAyvkgEDQm9TenwGkd5eNaosSxjgEYd8QatfPetgB1CdEZ",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPBdG",
        cid_of({}).upper(), cid_of({}) + "a", cid_of({})[:-1], cid_of({}) + "=", "b" + "a" * 300, "bé",
    ],
}  # fmt: skip


def test_every_format_has_valid_and_invalid_cases():
    assert VALID.keys() == INVALID.keys() == FORMATS.keys()


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in VALID.items() for text in texts])
def test_valid_text_is_accepted(name: str, text: str):
    assert FORMATS[name](text)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in INVALID.items() for text in texts])
def test_invalid_text_is_refused(name: str, text: str):
    assert not FORMATS[name](text)


@settings(deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.text(max_size=80))
def test_any_text_is_accepted_or_refused(name: str, text: str):
    assert FORMATS[name](text) in {True, False}


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("piece", ["a", "a.", "-a", "a-", "%41", ":", "/", "@", "1", "x-", "did:a:", "%", "a:"])
def test_a_long_text_is_checked_in_linear_time(name: str, piece: str):
    # A record's 256 KiB: a quadratic check would take minutes and exceed the time limit.
    for start in ("", "did:a:", "http://", "at://", "x-", "b"):
        FORMATS[name](start + piece * (256 * 1024 // len(piece)) + "!")


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**40), st.integers(1, 2**20))
def test_a_cid_is_accepted_with_any_codec_and_hash_function(digest: bytes, codec: int, function: int):
    raw = b"\x01" + _varint(codec) + _varint(function) + _varint(len(digest)) + digest
    text = "b" + base64.b32encode(raw).decode().lower().rstrip("=")
    assert FORMATS["cid"](text)
    assert not FORMATS["cid"]("b" + base64.b32encode(raw + b"x").decode().lower().rstrip("="))
    assert not FORMATS["cid"]("b" + base64.b32encode(b"\x02" + raw[1:]).decode().lower().rstrip("="))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.integers(-(2**63), 2**63 - 1), max_size=3))
def test_every_cid_that_this_vault_computes_is_accepted(value: dict[str, int]):
    assert FORMATS["cid"](cid_of(value))


def test_another_encoding_of_the_same_cid_is_refused():
    digest = hashlib.sha256(b"x").digest()
    text = "b" + base64.b32encode(b"\x01\x55\x12\x20" + digest).decode().lower().rstrip("=")
    assert FORMATS["cid"](text)
    # The last character carries spare bits; another one decodes to the same bytes.
    others = [text[:-1] + it for it in "abcdefghijklmnopqrstuvwxyz234567" if it != text[-1]]
    assert not any(FORMATS["cid"](it) for it in others if _decodes_alike(it, text))


def _decodes_alike(one: str, other: str) -> bool:
    decoded = [base64.b32decode(it[1:].upper() + "=" * (-len(it[1:]) % 8)) for it in (one, other)]
    return decoded[0] == decoded[1]
