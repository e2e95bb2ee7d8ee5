"""POST /v1/repo/record (spec: endpoints, createRecord)."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from tests.http.api import FLAG, POST, PROFILE, TIME, Api, Creator, data, refused

WRONG: tuple[Any, ...] = (None, True, False, 0, 1.5, "", [], {}, ["x"], {"x": 1})
ULID = r"[0-7][0-9A-HJKMNP-TV-Z]{25}"


def post(creator: Creator, **members: Any) -> dict[str, Any]:
    good = {"text": "Hello", "createdAt": "2026-11-24T02:53:29Z", "authorDid": creator.did}
    return {name: value for name, value in {**good, **members}.items() if value is not ...}


async def test_a_record_is_stored_and_its_receipt_has_its_uri(ada: Creator) -> None:
    response = await ada.create(collection=POST, record=post(ada))
    receipt = data(response)
    assert set(response.json()) == {"data"}
    assert set(receipt) == {"uri", "cid", "indexedAt", "schemaVersion"}
    assert re.fullmatch(rf"at://{ada.did}/{POST}/{ULID}", receipt["uri"])
    assert re.fullmatch(r"bafyrei[a-z2-7]{52}", receipt["cid"])
    assert TIME.fullmatch(receipt["indexedAt"])
    assert receipt["schemaVersion"] == "1.0.0"
    assert "idempotent-replayed" not in response.headers
    assert "deprecation" not in response.headers
    assert "sunset" not in response.headers
    assert data(await ada.get(receipt["uri"]))["value"] == post(ada)


async def test_creating_the_same_record_twice_makes_two_records_with_one_cid(ada: Creator) -> None:
    one, two = await ada.created(), await ada.created()
    assert one["cid"] == two["cid"]
    assert one["uri"] < two["uri"]
    assert one["indexedAt"] <= two["indexedAt"]


async def test_indexed_at_comes_from_the_servers_clock(ada: Creator) -> None:
    past, future = (
        await ada.created(createdAt="1999-01-01T00:00:00Z"),
        await ada.created(createdAt="2999-01-01T00:00:00Z"),
    )
    assert "2999" > past["indexedAt"] > "2026"
    assert "2999" > future["indexedAt"] >= past["indexedAt"]
    listed = data(await ada.list())["records"]
    assert [each["createdAt"] for each in listed] == ["2999-01-01T00:00:00.000000Z", "1999-01-01T00:00:00.000000Z"]


@pytest.mark.parametrize("member", ["collection", "did", "record"])
async def test_a_missing_required_member_is_refused_by_name(ada: Creator, member: str) -> None:
    missing: dict[str, Any] = {member: ...}
    error = refused(await ada.create(**missing), 400, "CDV_VALIDATION")
    assert error["details"]["field"] == member


@pytest.mark.parametrize("member", ["collection", "did", "createdAt", "idempotencyKey", "schemaVersion", "cid"])
@pytest.mark.parametrize("wrong", [each for each in WRONG if not isinstance(each, str)], ids=str)
async def test_a_text_member_of_another_type_is_refused_by_name(ada: Creator, member: str, wrong: Any) -> None:
    error = refused(await ada.create(**{member: wrong}), 400, "CDV_VALIDATION")
    assert error["details"]["field"] == member


@pytest.mark.parametrize("member", ["collection", "did", "createdAt", "idempotencyKey", "schemaVersion"])
@pytest.mark.parametrize("wrong", ["", " ", "\x00", "é", "x" * 3000, "\u2028"])
async def test_a_text_member_of_invalid_form_is_refused_by_name(ada: Creator, member: str, wrong: Any) -> None:
    error = refused(await ada.create(**{member: wrong}), 400, "CDV_VALIDATION")
    assert error["details"]["field"] == member


@pytest.mark.parametrize("wrong", [each for each in WRONG if not isinstance(each, dict)], ids=str)
async def test_a_record_that_is_no_object_is_refused(ada: Creator, wrong: Any) -> None:
    assert refused(await ada.create(record=wrong), 400, "CDV_VALIDATION")["details"]["field"] == "record"


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"x"', b"true"])
async def test_a_body_that_is_no_object_is_refused(ada: Creator, body: bytes) -> None:
    for path in ("/v1/repo/record", "/v1/media/uploadInit", "/v1/media/finalize"):
        refused(await ada.post(path, body), 400, "CDV_VALIDATION")


@pytest.mark.parametrize(
    "did",
    [
        *(
            "did:example",
            "did:example:",
            "did::x",
            "DID:example:x",
            "did:Example:x",
            "did:example:a b",
            "did:example:a/b",
        ),
        *("did:example:a#b", "did:example:a?b", "did:example:%", "did:example:%4", "did:example:%zz", "did:example:x:"),
        *("did:exa-mple:x", "did:example:é", "did:example:x\n", "\ndid:example:x", "at://did:example:x"),
        "did:example:" + "x" * (2049 - len("did:example:")),
    ],
)
async def test_an_invalid_did_is_refused(ada: Creator, did: str) -> None:
    assert refused(await ada.create(did=did), 400, "CDV_VALIDATION")["details"]["field"] == "did"
    assert refused(await ada.api.creator().list(did=did), 400, "CDV_VALIDATION")["details"]["field"] == "did"


@pytest.mark.parametrize(
    "did",
    [
        *(
            "did:web:example.com%3A8080",
            "did:key:z6MkpTHR8VNs5zPs",
            "did:a:b",
            "did:example:a:b:c",
            "did:1:_",
            "did:x:..:-",
        ),
        *("did:example:%4a%4A", "did:example:::x", "did:example:" + "x" * (2048 - len("did:example:"))),
    ],
)
async def test_every_form_of_did_may_write_and_is_kept_byte_for_byte(api: Api, did: str) -> None:
    creator = api.creator(did)
    receipt = await creator.created()
    assert receipt["uri"].startswith(f"at://{did}/{PROFILE}/")
    assert data(await creator.get(receipt["uri"]))["uri"] == receipt["uri"]
    assert [each["uri"] for each in data(await creator.list())["records"]] == [receipt["uri"]]


async def test_dids_are_compared_byte_for_byte(api: Api) -> None:
    lower, upper = api.creator("did:example:case"), api.creator("did:example:CASE")
    receipt = await lower.created()
    assert data(await upper.list())["records"] == []
    refused(await upper.get(receipt["uri"].replace("case", "CASE")), 404, "CDV_NOT_FOUND")
    refused(await upper.create(did=lower.did), 403, "CDV_DID_MISMATCH")


async def test_creating_a_record_for_another_did_is_refused(ada: Creator, bob: Creator) -> None:
    error = refused(await ada.create(did=bob.did), 403, "CDV_DID_MISMATCH")
    assert error["details"]["field"] == "did"
    assert data(await bob.list())["records"] == []


@pytest.mark.parametrize(
    "collection",
    [
        *("profile", "com.profile", "com.registryaccord.profile.", ".com.registryaccord.profile", "com..profile"),
        *(
            "com.a.b_c",
            "com.a.1b",
            "com.registryaccord.*",
            "com.registryaccord.profile\n",
            "com.a.b-c",
            "1com.a.b/../c",
        ),
        "x" * 318,
    ],
)
async def test_an_invalid_nsid_is_refused(ada: Creator, collection: str) -> None:
    assert refused(await ada.create(collection=collection), 400, "CDV_VALIDATION")["details"]["field"] == "collection"
    assert refused(await ada.list(collection=collection), 400, "CDV_VALIDATION")["details"]["field"] == "collection"


@pytest.mark.parametrize(
    "collection", ["com.example.unknown", "com.registryaccord.Profile", "COM.registryaccord.profile"]
)
async def test_an_unknown_collection_is_refused(ada: Creator, collection: str) -> None:
    error = refused(await ada.create(collection=collection), 400, "CDV_VALIDATION")
    assert error["details"]["collection"] == collection


@pytest.mark.parametrize(
    "version", ["1.0.1", "1.0", "1", "2.0.0", "v1.0.0", "latest", "1.0.0 ", "01.0.0", "", "x" * 1000]
)
async def test_an_unknown_schema_version_is_refused(ada: Creator, version: str) -> None:
    error = refused(await ada.create(schemaVersion=version), 400, "CDV_VALIDATION")
    assert error["details"]["field"] == "schemaVersion"


async def test_a_requested_schema_version_is_used_and_stored(ada: Creator) -> None:
    receipt = await ada.created(schemaVersion="1.0.0")
    assert receipt["schemaVersion"] == "1.0.0"
    assert data(await ada.get(receipt["uri"]))["schemaVersion"] == "1.0.0"


async def test_a_cid_that_the_client_sends_must_match(ada: Creator) -> None:
    cid = (await ada.created())["cid"]
    assert (await ada.created(cid=cid))["cid"] == cid
    for wrong in ("", cid.upper(), cid[:-1], "bafyreib" + cid[8:], "x", f" {cid}", "\x00"):
        error = refused(await ada.create(cid=wrong), 409, "CDV_CONFLICT")
        assert error["details"] == {"reason": "cid_mismatch", "expected": wrong, "actual": cid}
    assert len(data(await ada.list())["records"]) == 2


async def test_an_error_repeats_no_more_than_the_beginning_of_a_long_value(ada: Creator) -> None:
    long = "x" * 500_000
    error = refused(await ada.create(cid=long), 409, "CDV_CONFLICT")
    assert error["details"]["expected"] == "x" * 100 + "..."
    answer = await ada.create(**{long: {}})
    assert refused(answer, 400, "CDV_VALIDATION")["details"]["field"] == "x" * 100 + "..."
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2026-11-24T02:53:29Z", "2026-11-24T02:53:29.000000Z"),
        ("2026-11-24t02:53:29z", "2026-11-24T02:53:29.000000Z"),
        ("2026-11-24T02:53:29.1Z", "2026-11-24T02:53:29.100000Z"),
        ("2026-11-24T02:53:29.331656Z", "2026-11-24T02:53:29.331656Z"),
        ("2026-11-24T02:53:29.331656999Z", "2026-11-24T02:53:29.331656Z"),
        ("2026-11-24T02:53:29+00:00", "2026-11-24T02:53:29.000000Z"),
        ("2026-11-24T02:53:29-00:00", "2026-11-24T02:53:29.000000Z"),
        ("2026-11-24T02:53:29+23:59", "2026-11-23T02:54:29.000000Z"),
        ("2026-11-24T02:53:29-23:59", "2026-11-25T02:52:29.000000Z"),
        ("2024-02-29T23:59:59.999999+14:00", "2024-02-29T09:59:59.999999Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z"),
    ],
)
async def test_created_at_with_any_offset_is_converted_to_utc(ada: Creator, given: str, kept: str) -> None:
    receipt = await ada.created(createdAt=given)
    assert data(await ada.get(receipt["uri"]))["createdAt"] == kept
    (listed,) = data(await ada.list())["records"]
    assert listed["createdAt"] == kept


INVALID_TIMES = [
    "2026-11-24T02:53:29",
    "2026-11-24",
    "2026-11-24T02:53Z",
    "20261124T025329Z",
    "2026-W48-2T02:53:29Z",
    "2026-11-24T02:53:29,5Z",
    "2026-11-24T02:53:29.Z",
    "2026-11-24T02:53:29+3:00",
    "2026-11-24T02:53:29+0300",
    "2026-11-24T02:53:29ZZ",
    "-2026-01-01T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-00-01T00:00:00Z",
    "2026-02-29T00:00:00Z",
    "2026-11-31T00:00:00Z",
    "2026-11-24T24:00:00Z",
    "2026-11-24T02:60:00Z",
    "2026-11-24T02:53:61Z",
    "2026-11-24T02:53:29+24:00",
    "2026-11-24T02:53:29+00:60",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+00:01",
    "9999-12-31T23:59:59-00:01",
    "12026-11-24T02:53:29Z",
    "2026-11-24T02:53:29Z[UTC]",
    "now",
    "0",
    "1764000000",
    "٢٠٢٦-11-24T02:53:29Z",
]
INVALID_TIMES += [
    " 2026-11-24T02:53:29Z",
    "2026-11-24T02:53:29Z\n",
    "2026-11-24T02:53:29 Z",
    "Tue, 24 Nov 2026 02:53:29 GMT",
]


@pytest.mark.parametrize("given", INVALID_TIMES)
async def test_an_invalid_time_or_one_without_an_offset_is_refused(ada: Creator, given: str) -> None:
    assert refused(await ada.create(createdAt=given), 400, "CDV_VALIDATION")["details"]["field"] == "createdAt"
    for bound in ("since", "until"):
        assert refused(await ada.list(**{bound: given}), 400, "CDV_VALIDATION")["details"]["field"] == bound


async def test_without_created_at_in_the_request_none_is_returned(ada: Creator) -> None:
    receipt = await ada.created()
    assert "createdAt" not in data(await ada.get(receipt["uri"]))
    assert "createdAt" not in data(await ada.list())["records"][0]


async def test_a_schema_rejection_lists_every_violation(ada: Creator) -> None:
    record = {"text": "x" * 2049, "createdAt": "yesterday"}
    error = refused(await ada.create(collection=POST, record=record), 400, "CDV_SCHEMA_REJECT")
    violations = error["details"]["violations"]
    assert all(set(each) == {"pointer", "rule", "message"} and each["message"] for each in violations)
    assert {(each["pointer"], each["rule"]) for each in violations} == {
        ("", "required"), ("/text", "maxLength"), ("/createdAt", "format"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("collection", "good", "bad"),
    [
        (PROFILE, {"displayName": "x" * 64}, {"displayName": "x" * 65}),
        (PROFILE, {"displayName": "\U0001f600" * 64}, {"displayName": "\U0001f600" * 65}),
        (PROFILE, {"displayName": "x", "bio": "x" * 256}, {"displayName": "x", "bio": "x" * 257}),
        (PROFILE, {"displayName": ""}, {}),
        (PROFILE, {"displayName": "x"}, {"displayName": None}),
        ("com.registryaccord.graph.follow", {"subject": "did:example:b"}, {"subject": "example:b"}),
        ("com.registryaccord.feed.like", {"subject": "at://did:example:b/com.a.b/c"}, {"subject": "not a uri"}),
        ("com.registryaccord.feed.like", {"subject": "https://example.com/?a=b#c"}, {"subject": "/path"}),
        ("com.registryaccord.feed.comment", {"text": "x" * 2048, "subject": "s"}, {"text": "x" * 2049, "subject": "s"}),
        ("com.registryaccord.feed.comment", {"text": "", "subject": ""}, {"text": ""}),
        ("com.registryaccord.feed.comment", {"text": "", "subject": ""}, {"subject": ""}),
        ("com.registryaccord.feed.repost", {"subject": "s"}, {"subject": 5}),
        ("com.registryaccord.feed.repost", {"subject": "s"}, {"text": "s"}),
        (FLAG, {"subject": "s", "reason": "x" * 256}, {"subject": "s", "reason": "x" * 257}),
        (FLAG, {"subject": "s", "reason": ""}, {"subject": "s"}),
        (FLAG, {"subject": "s", "reason": ""}, {"reason": "s"}),
        ("com.registryaccord.media.asset", {"mimeType": "a/b", "size": 0, "checksum": "0" * 64},
         {"mimeType": "a/b", "size": -1, "checksum": "0" * 64}),
        ("com.registryaccord.media.asset", {"mimeType": "a/b", "size": 2.0, "checksum": "aF" * 32, "filename": "x"},
         {"mimeType": "a/b", "size": 2.5, "checksum": "aF" * 32}),
        ("com.registryaccord.media.asset", {"mimeType": "a/b", "size": 0, "checksum": "0" * 64},
         {"mimeType": "a/b", "size": 0, "checksum": "0" * 63}),
        ("com.registryaccord.media.asset", {"mimeType": "a/b", "size": 0, "checksum": "0" * 64},
         {"mimeType": "a/b", "size": 0, "checksum": "0" * 64 + "\n"}),
        ("com.registryaccord.media.asset", {"mimeType": "a/b", "size": 0, "checksum": "0" * 64},
         {"mimeType": "a/b", "size": 0, "checksum": "g" * 64}),
        ("com.registryaccord.media.asset", {"mimeType": "", "size": 0, "checksum": "0" * 64},
         {"size": 0, "checksum": "0" * 64}),
        ("com.registryaccord.media.asset", {"mimeType": "", "size": 2**63 - 1, "checksum": "0" * 64},
         {"mimeType": "a/b", "checksum": "0" * 64}),
        ("com.registryaccord.media.asset", {"mimeType": "", "size": 0, "checksum": "0" * 64},
         {"mimeType": "a/b", "size": 0}),
    ],
)  # fmt: skip
async def test_schemas_are_enforced_on_both_sides_of_their_bounds(
    ada: Creator, collection: str, good: dict[str, Any], bad: dict[str, Any]
) -> None:
    receipt = await ada.created(collection=collection, record=good)
    assert data(await ada.get(receipt["uri"]))["value"] == good
    error = refused(await ada.create(collection=collection, record=bad), 400, "CDV_SCHEMA_REJECT")
    assert error["details"]["collection"] == collection
    assert error["details"]["schemaVersion"] == "1.0.0"


@pytest.mark.parametrize("bad", [{"text": "x" * 2049}, {"text": ...}, {"createdAt": ...}, {"authorDid": ...},
                                 {"createdAt": "2026-11-24T02:53:29"}, {"text": ["x"]}])  # fmt: skip
async def test_a_post_without_valid_text_time_and_author_is_refused(ada: Creator, bad: dict[str, Any]) -> None:
    assert data(await ada.create(collection=POST, record=post(ada, text="x" * 2048)))
    refused(await ada.create(collection=POST, record=post(ada, **bad)), 400, "CDV_SCHEMA_REJECT")


async def test_members_that_the_schema_does_not_declare_are_kept(ada: Creator) -> None:
    record = {
        "displayName": "Ada",
        "pronouns": ["she", None, {"": [[], {}]}],
        "é": 1.5,
        "$type": "x",
        "__proto__": False,
    }
    receipt = await ada.created(record=record)
    assert data(await ada.get(receipt["uri"]))["value"] == record


async def test_member_order_is_kept_and_does_not_change_the_cid(ada: Creator) -> None:
    one = await ada.created(record={"displayName": "A", "b": 1, "a": {"z": 1, "y": 2}})
    two = await ada.created(record={"a": {"y": 2, "z": 1}, "b": 1, "displayName": "A"})
    assert one["cid"] == two["cid"]
    assert '{"displayName":"A","b":1,"a":{"z":1,"y":2}}' in (await ada.get(one["uri"])).text


@pytest.mark.parametrize(
    "spellings",
    [("1", "1.0", "1e0", "10e-1", "1.000", "100E-2", "1E+0"), ("0", "-0", "0.0", "-0.0", "0e9", "0e-400"),
     ("9007199254740993", "9007199254740993.0", "9007199254740993e0", "900719925474099.3e1"),
     ("9223372036854775807", "9223372036854775807.0", "922337203685477580.7e1"),
     ("-9223372036854775808", "-9223372036854775808.0"), ("0.1", "1e-1", "0.10"), ("1e-7", "0.0000001"),
     ("1000000000000000000", "1e18"), ('"a"', '"\\u0061"'), ('"/"', '"\\/"'), ('"\U0001f600"', '"\\ud83d\\ude00"')],
)  # fmt: skip
async def test_every_spelling_of_a_value_has_the_same_cid(ada: Creator, spellings: tuple[str, ...]) -> None:
    cids = set()
    for spelling in spellings:
        body = json.dumps(ada.body(record=...))[:-1] + f', "record": {{"displayName": "A", "n": {spelling}}}}}'
        receipt = data(await ada.post("/v1/repo/record", body.encode()))
        cids.add(receipt["cid"])
        assert data(await ada.get(receipt["uri"]))["cid"] == receipt["cid"]
    assert len(cids) == 1


async def test_concurrent_first_writes_of_a_hundred_dids_all_succeed(api: Api) -> None:
    creators = [api.creator() for _ in range(100)]
    receipts = await asyncio.gather(*(creator.created() for creator in creators))
    assert len({receipt["uri"] for receipt in receipts}) == 100
    for creator, receipt in zip(creators[::10], receipts[::10], strict=True):
        assert data(await creator.get(receipt["uri"]))["cid"] == receipt["cid"]


async def test_concurrent_first_writes_of_one_did_all_succeed(ada: Creator) -> None:
    receipts = await asyncio.gather(*(ada.created() for _ in range(30)))
    listed = data(await ada.list(limit=100))["records"]
    assert sorted(each["uri"] for each in listed) == sorted(receipt["uri"] for receipt in receipts)
    assert len({receipt["uri"] for receipt in receipts}) == 30
