"""Parsing of DIDs, NSIDs, record keys, record URIs and asset ids."""

from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import AssetId, Did, Nsid, RecordKey, RecordUri, is_ulid
from cdv_core.domain.media import Sha256, parse_filename
from cdv_core.errors import InvalidField

DIDS = st.from_regex(
    r"did:[a-z0-9]{1,8}:([A-Za-z0-9._-]{0,6}:){0,2}([A-Za-z0-9._-]|%[0-9A-F]{2}){1,20}", fullmatch=True
)
NSIDS = st.from_regex(r"[a-z]{2,8}\.[a-z][a-z0-9]{0,8}\.[a-zA-Z][a-zA-Z0-9]{0,8}", fullmatch=True)
RECORD_KEY_REASON = "must be a record key: 1 to 512 of A-Z a-z 0-9 . _ : ~ -, and not . or .."
KEYS = st.from_regex(r"[A-Za-z0-9_~:-]{1,30}", fullmatch=True)


@given(DIDS, NSIDS, KEYS)
def test_a_formatted_record_uri_parses_to_the_same_uri(did, collection, rkey):
    uri = RecordUri(Did.parse(did), Nsid.parse(collection), RecordKey.parse(rkey))
    assert str(uri) == f"at://{did}/{collection}/{rkey}"
    assert RecordUri.parse(str(uri)) == uri


@pytest.mark.parametrize(
    "text",
    [
        "did:plc:abc",
        "did:web:example.com",
        "did:web:example.com%3A8080:user",
        "did:example:a:b::c",
        "did:0:_",
        "did:x:%aF",
    ],
)
def test_dids_of_the_w3c_syntax_are_accepted_unchanged(text):
    assert Did.parse(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "did", "did:", "did:plc", "did:plc:", "did:plc:a:", "did::a", "DID:plc:a", "did:PLC:a", "did:p-c:a",
        "did:plc:a b",
        "did:plc:a/b", "did:plc:a#b", "did:plc:a?b", "did:plc:%", "did:plc:%1", "did:plc:%zz", "did:plc:é",
        "did:plc:a\n", " did:plc:a", "did:plc:a\x00", "at://did:plc:a", "did:plc:٣",
    ],
)  # fmt: skip
def test_an_invalid_did_is_refused(text):
    with pytest.raises(InvalidField, match="must be a DID") as caught:
        Did.parse(text, "authorDid")
    assert caught.value.field == "authorDid"


def test_a_did_has_at_most_2048_characters():
    longest = "did:plc:" + "a" * 2040
    assert Did.parse(longest) == longest
    with pytest.raises(InvalidField, match="at most 2048 characters"):
        Did.parse(longest + "a")


def test_a_did_is_compared_byte_for_byte():
    assert Did.parse("did:web:Example") != Did.parse("did:web:example")


@pytest.mark.parametrize("text", ["com.example.post", "com.registryaccord.feed.post", "a.b.c", "com.ex-ample.fooBar2"])
def test_valid_nsids_are_accepted(text):
    assert Nsid.parse(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "com", "com.example", "com..post", ".com.example", "com.example.", "com.example.2post", "com.example.po-st",
        "com.-example.post", "com.example-.post", "1om.example.post", "com.example.post*", "com.exämple.post",
        "com.example.post\n", "com/example/post", "com.example.po_st",
        "a." + "b" * 64 + ".c", "com.example." + "p" * 64,
    ],
)  # fmt: skip
def test_an_invalid_nsid_is_refused(text):
    with pytest.raises(InvalidField, match="must be an NSID") as caught:
        Nsid.parse(text)
    assert caught.value.field == "collection"


def test_an_nsid_has_at_most_317_characters():
    longest = ".".join(["a" * 63] * 4) + "." + "b" * 61
    assert len(longest) == 317
    assert Nsid.parse(longest)
    with pytest.raises(InvalidField):
        Nsid.parse(longest + "b")


@pytest.mark.parametrize("text", ["", ".", "..", "a b", "a/b", "a%20", "é", "a\n", "a" * 513])
def test_an_invalid_record_key_is_refused(text):
    with pytest.raises(InvalidField, match="must be a record key"):
        RecordKey.parse(text)


@pytest.mark.parametrize("text", ["a", "self", "...", "a" * 512, "01KAV3XG8J0000000000000000", "a:b~c_d-e.f"])
def test_valid_record_keys_are_accepted(text):
    assert RecordKey.parse(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "at://", "at://did:plc:a", "at://did:plc:a/com.example.post", "at://did:plc:a/com.example.post/",
        "at://did:plc:a/com.example.post/k/", "at://did:plc:a/com.example.post/k/l", "at:/did:plc:a/com.example.post/k",
        "http://did:plc:a/com.example.post/k", "did:plc:a/com.example.post/k", "AT://did:plc:a/com.example.post/k",
        "at://alice.example/com.example.post/k", "at://did:plc:a/post/k", "at://did:plc:a/com.example.post/k#f",
        "at://did:plc:a//k", "at:///com.example.post/k",
    ],
)  # fmt: skip
def test_an_invalid_record_uri_is_refused(text):
    with pytest.raises(InvalidField) as caught:
        RecordUri.parse(text)
    assert caught.value.field == "uri"


def test_a_ulid_is_26_crockford_characters_below_the_largest_time():
    assert is_ulid("7ZZZZZZZZZZZZZZZZZZZZZZZZZ")
    assert AssetId.parse("01KAV3XG8J0000000000000000") == "01KAV3XG8J0000000000000000"
    for text in ["8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "01KAV3XG8J000000000000000", "01KAV3XG8J00000000000000000", "",
                 "01KAV3XG8J000000000000000I", "01KAV3XG8J000000000000000L", "01KAV3XG8J000000000000000O",
                 "01KAV3XG8J000000000000000U", "01kav3xg8j0000000000000000"]:  # fmt: skip
        assert not is_ulid(text)
        with pytest.raises(InvalidField, match="must be a media asset id"):
            AssetId.parse(text)


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (Did.parse, "did:example:ada"),
        (Nsid.parse, "com.example.post"),
        (RecordKey.parse, "self"),
        (AssetId.parse, "01KAV3XG8J0000000000000000"),
        (IdempotencyKey.parse, "k"),
        (Sha256.parse, "ab" * 32),
        (parse_filename, "cat.png"),
    ],
)
def test_enum_members_are_parsed_by_their_values(parse, text):
    class Given(str, Enum):  # noqa: UP042 - str() of its members is their name
        IT = text

    parsed = parse(Given.IT)
    assert (parsed, str(parsed), f"{parsed}", hash(parsed)) == (text, text, text, hash(text))
    assert not isinstance(parsed, Given)


def test_a_record_uri_from_an_enum_member_is_parsed_by_its_value():
    class Given(str, Enum):  # noqa: UP042
        IT = "at://did:example:ada/com.example.post/self"

    assert str(RecordUri.parse(Given.IT)) == Given.IT.value


def test_enum_members_are_validated_by_their_values():
    class Given(str, Enum):  # noqa: UP042
        ONE = "."
        TWO = ".."

    for dots in Given:
        with pytest.raises(InvalidField, match="must be a record key"):
            RecordKey.parse(dots)


@pytest.mark.parametrize(
    ("parse", "text", "field", "reason"),
    [
        (Did.parse, "x", "did", "must be a DID (did:<method>:<id>)"),
        (Did.parse, "did:a:" + "x" * 2048, "did", "must be a DID of at most 2048 characters"),
        (Nsid.parse, "x", "collection", "must be an NSID (such as com.example.feed.post)"),
        (RecordKey.parse, "", "rkey", RECORD_KEY_REASON),
        (AssetId.parse, "x", "assetId", "must be a media asset id (a ULID)"),
        (RecordUri.parse, "x", "uri", "must be a record URI (at://<did>/<collection>/<rkey>)"),
    ],
)
def test_a_refusal_names_the_field_and_the_expected_form(parse, text, field, reason):
    with pytest.raises(InvalidField) as caught:
        parse(text)
    assert (caught.value.field, caught.value.reason) == (field, reason)
