"""Tests of create and get: valid records are returned unchanged, invalid requests are refused and store nothing."""

from __future__ import annotations

import json
import re
import secrets
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from conformance.http.fixtures import newcomer
from conformance.http.json_samples import JSON_OBJECTS, JSON_VALUES, same_json
from conformance.http.laws import TIME
from conformance.http.profiles import for_all
from conformance.http.requirements import clause, judges
from conformance.http.tokens import KeyTokens
from conformance.http.vault import POST, PROFILE, RECEIPT, RECORD, Creator, Vault, concurrently, data, expect_error
from conformance.strategies import DIDS

ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)
HOUR_SECONDS = 3600
_MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))
_OFFSETS = st.sampled_from(["Z", "z", "+00:00", "-00:00", "+14:00", "-11:30", "+05:45"])
_INVALID_TIMES = [
    *(
        "2026-11-24T02:53:29",
        "2026-11-24",
        "2026-11-24 02:53:29Z ",
        "yesterday",
        "",
        "1763951609",
        "2026-13-01T00:00:00Z",
    ),
    *(
        "2026-02-30T00:00:00Z",
        "2026-11-24T25:00:00Z",
        "2026-11-24T02:53:29+25:00",
        "2026-11-24T02:53Z",
        "20261124T025329Z",
    ),
]


@judges("REC-001", "REC-003")
def test_a_create_returns_a_receipt(ada: Creator):
    receipt = data(ada.create())

    with clause("REC-001"):
        assert {*RECEIPT} <= set(receipt)
        assert all(isinstance(receipt[name], str) for name in RECEIPT), receipt
    with clause("REC-003"):
        uri, _, rkey = receipt["uri"].rpartition("/")
        assert uri == f"at://{ada.did}/{PROFILE}"
        assert ULID.fullmatch(rkey), f"{rkey} is not a ULID"


@judges("REC-002")
def test_a_receipt_has_no_other_members(ada: Creator):
    assert set(data(ada.create())) == {*RECEIPT}


@judges("REC-004")
# Newcomers: the first writes of a DID race to create its account.
@newcomer("ada")
@pytest.mark.parametrize("attempt", range(3))
def test_concurrent_writes_all_succeed(ada: Creator, attempt: int):
    responses = concurrently(lambda n: ada.create(record={"displayName": str(n)}), range(12))

    uris = [data(response)["uri"] for response in responses]
    assert len({*uris}) == len(uris), "two records have one URI"
    assert {it["uri"] for it in ada.listed()} == {*uris}


@judges("REC-005")
@for_all(cost=2, claimed=_MOMENTS)
def test_indexed_at_is_taken_from_the_servers_clock(ada: Creator, claimed: datetime):
    assume(abs(claimed.timestamp() - time.time()) > 2 * HOUR_SECONDS)
    before = _moment(ada.created()["indexedAt"])

    indexed = _moment(ada.created(createdAt=claimed.isoformat())["indexedAt"])

    assert abs((indexed - before).total_seconds()) < HOUR_SECONDS, f"indexedAt {indexed}, createdAt {claimed}"


@judges("REC-006")
@for_all(local=_MOMENTS, offset=_OFFSETS, digits=st.integers(0, 6))
def test_created_at_is_returned_in_utc(ada: Creator, local: datetime, offset: str, digits: int):
    fraction = f"{local.microsecond:06}"[:digits]
    text = local.strftime("%Y-%m-%dT%H:%M:%S") + (f".{fraction}" if fraction else "") + offset
    moment = datetime.fromisoformat(text.upper()).astimezone(UTC)

    found = data(ada.get(ada.created(createdAt=text)["uri"]))

    assert found.get("createdAt") == moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond:06}Z"


@judges("REC-007")
@for_all(every=True, text=st.sampled_from(_INVALID_TIMES))
def test_an_invalid_created_at_is_refused(ada: Creator, text: str):
    expect_error(ada.create(createdAt=text), 400, "CDV_VALIDATION")


@judges("REC-008")
def test_no_created_at_is_invented(ada: Creator):
    assert "createdAt" not in data(ada.get(ada.created()["uri"]))


@judges("REC-009", "REC-010")
@for_all(beyond=JSON_OBJECTS)
def test_get_returns_what_was_created(ada: Creator, beyond: dict[str, Any]):
    record = {**beyond, "displayName": "Ada"}
    record.pop("authorDid", None)
    record.pop("bio", None)
    receipt = ada.created(record=record)

    found = data(ada.get(receipt["uri"]))

    with clause("REC-009"):
        assert {name: found.get(name) for name in receipt} == receipt
    with clause("REC-010"):
        assert same_json(found.get("value"), record), f"sent {record!r}, got {found.get('value')!r}"


@judges("REC-011")
@for_all(cost=2, rkey=st.from_regex(ULID, fullmatch=True), collection=st.sampled_from([POST, PROFILE]))
def test_an_unknown_record_is_not_found(ada: Creator, rkey: str, collection: str):
    expect_error(ada.get(f"at://{ada.did}/{collection}/{rkey}"), 404, "CDV_NOT_FOUND")


_INVALID_URIS = [
    *("", "at://", "at:///", "/", "%", "\x00", "at://DID", "at://DID//", "at://DID/profile/KEY", "at://DID/a..b/KEY"),
    *("http://DID/COLLECTION/KEY", "at:DID/COLLECTION/KEY", "at:/DID/COLLECTION/KEY", "at://DID/COLLECTION"),
    *("at://DID/COLLECTION/KEY/x", "at://DID/COLLECTION/KEY/", "at://DID/COLLECTION/KEY ", "at://DID/COLLECTION/KEY\n"),
    *("at://example:a/COLLECTION/KEY", "at://dod:example:a/COLLECTION/KEY", "DID/COLLECTION/KEY"),
]


@judges("REC-012")
@for_all(every=True, form=st.sampled_from(_INVALID_URIS))
def test_a_malformed_uri_is_refused(vault: Vault, ada: Creator, form: str):
    uri = form.replace("DID", ada.did).replace("COLLECTION", PROFILE).replace("KEY", "01ARZ3NDEKTSV4RRFFQ69G5FAV")

    expect_error(vault.get(uri, ada), 400)


@judges("REC-012")
def test_get_needs_a_uri(vault: Vault, ada: Creator):
    expect_error(vault.send("GET", RECORD, by=ada), 400)


@judges("REC-013", "REC-014")
def test_a_matching_etag_is_answered_304(ada: Creator):
    receipt = ada.created()
    found = ada.get(receipt["uri"])
    etag = found.headers.get("etag", "")
    with clause("REC-013"):
        assert etag == f'"{receipt["cid"]}"'

    with clause("REC-014"):
        again = ada.get(receipt["uri"], If_None_Match=etag)
        assert again.status_code == 304
        assert not again.content
        assert ada.get(receipt["uri"], If_None_Match='"another"').status_code == 200


@judges("REC-015")
@for_all(every=True, layout=st.sampled_from(['"a", {}', "W/{}", '"a",{},"b"', "*", 'W/"a" , W/{}']))
def test_if_none_match_is_parsed_as_http_defines_it(ada: Creator, layout: str):
    receipt = ada.created()

    response = ada.get(receipt["uri"], If_None_Match=layout.format(f'"{receipt["cid"]}"'))

    assert response.status_code == 304, layout


_NAMES = st.sampled_from(["idempotencykey", "createdat", "Collection", "schema_version", "extra", "$type", "", "data"])


@judges("REC-016", "REC-017")
@for_all(name=_NAMES | st.text("abcXYZ_", min_size=1, max_size=12), value=JSON_VALUES)
def test_an_unknown_member_is_refused_by_name(ada: Creator, name: str, value: Any):
    assume(name not in {"collection", "did", "record", "createdAt", "idempotencyKey", "schemaVersion", "cid"})

    error = expect_error(ada.create(**{name: value}), 400, "CDV_VALIDATION")

    with clause("REC-017"):
        assert name in json.dumps(error.get("details", ""), ensure_ascii=False)


@judges("REC-018")
def test_a_missing_required_member_is_refused(ada: Creator):
    for name in ("collection", "did", "record"):
        body = ada.body()
        del body[name]
        expect_error(ada.vault.send("POST", RECORD, by=ada, body=body), 400, "CDV_VALIDATION")


_WRONG_TYPES: list[tuple[str, Any]] = [
    ("record", "{}"),
    *(("record", []), ("record", True), ("record", 1), ("record", None)),
    *(("collection", 1), ("did", []), ("did", True), ("createdAt", 1), ("schemaVersion", 1), ("idempotencyKey", 1)),
    *(("cid", {}), ("collection", None), ("did", None)),
]


@judges("REC-019")
@for_all(every=True, case=st.sampled_from(_WRONG_TYPES))
def test_a_member_of_another_type_is_refused(ada: Creator, case: tuple[str, Any]):
    expect_error(ada.create(**dict([case])), 400, "CDV_VALIDATION")


_INVALID_DIDS = [
    "did:",
    "did:example",
    "did:example:",
    "example:a",
    "DID:example:a",
    "did:EX:a",
    "did:example:a b",
    "did:example:a%2",
    "",
    " ",
]


@judges("REC-020")
@for_all(
    every=True,
    did=st.sampled_from(
        [*_INVALID_DIDS, "did:example:" + "x" * 2040, "did:example:a\n", "did:example:\u00e9", "did:example:a/b"]
    ),
)
def test_an_invalid_did_is_refused(ada: Creator, did: str):
    expect_error(ada.create(did=did), 400, "CDV_VALIDATION")


@judges("REC-021")
@for_all(
    every=True,
    collection=st.sampled_from(
        ["post", "a.b", "", "com..post", "com.example.", ".com.example", "com.example.p ost", "../x.y.z"]
    ),
)
def test_an_invalid_collection_is_refused(ada: Creator, collection: str):
    expect_error(ada.create(collection=collection), 400)


@judges("REC-022")
@for_all(did=DIDS)
def test_anyone_with_a_did_may_write(vault: Vault, minter: KeyTokens, did: str):
    # Other runs of this suite may have used the same DIDs, so only the effects of this write are checked.
    anyone = vault.creator(did)
    receipt = anyone.created()

    assert receipt["uri"].startswith(f"at://{did}/")
    assert data(anyone.get(receipt["uri"]))["cid"] == receipt["cid"]
    assert receipt["uri"] in {it["uri"] for it in data(anyone.listing(limit=100))["records"]}


@judges("REC-023")
def test_dids_that_differ_in_case_are_two(vault: Vault):
    name = secrets.token_hex(8)
    lower, upper = vault.creator(f"did:example:a{name}"), vault.creator(f"did:example:A{name}")
    lower.created()

    expect_error(vault.send("POST", RECORD, by=upper, body=lower.body()), 403, "CDV_DID_MISMATCH")
    assert not upper.listed()


@judges("REC-024", "REC-025")
@newcomer("bob")
def test_a_content_hash_is_checked(ada: Creator, bob: Creator):
    cid = ada.created()["cid"]
    other = ada.created(record={"displayName": "Bob"})["cid"]

    with clause("REC-024"):
        assert bob.created(cid=cid)["cid"] == cid
        expect_error(bob.create(cid=other), 409, "CDV_CONFLICT")
    with clause("REC-025"):
        assert len(bob.listed()) == 1


@judges("REC-025")
@newcomer("ada")
def test_a_refused_create_stores_nothing(ada: Creator):
    for response in (
        ada.create(record={}),
        ada.create(collection="com.example.unknown.collection"),
        ada.create(createdAt="yesterday"),
        ada.create(schemaVersion="99.0.0"),
        ada.create(record={"displayName": "x" * 65}),
        ada.create(record={"displayName": "Ada", "authorDid": "did:example:other"}),
        ada.create(unknown=1),
    ):
        assert 400 <= response.status_code < 500, response.status_code

    assert not ada.listed()


@judges("REC-026")
def test_a_record_cannot_be_changed_or_deleted(vault: Vault, ada: Creator):
    uri = ada.created()["uri"]
    before = data(ada.get(uri))

    for method in ("PUT", "PATCH", "DELETE"):
        expect_error(
            vault.send(method, RECORD, by=ada, params={"uri": uri}, headers={"Content-Type": "application/json"}), 405
        )
    assert data(ada.get(uri)) == before


def _moment(text: str) -> datetime:
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(text)
