"""Tests of idempotency keys: a retry returns the first response, and keys of different DIDs are independent."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import strategies as st

from conformance.http.fixtures import newcomer
from conformance.http.json_samples import profiles, reserialized
from conformance.http.profiles import for_all
from conformance.http.requirements import clause, judges
from conformance.http.vault import FOLLOW, PROFILE, RECORD, Creator, Vault, concurrently, data, expect_error, new_key

CONCURRENT_REQUESTS = 24
RACES = 4  # per attempt: a service that looks up and stores in two steps may survive a single race
REPLAYED = "idempotent-replayed"


def receipt_of(response: httpx.Response) -> bytes:
    """Return the body of a create, which must have been accepted."""
    data(response)
    return response.content


@judges("IDEM-001", "IDEM-002", "IDEM-003")
@for_all(cost=2, record=profiles(), by_header=st.booleans(), created_at=st.booleans())
def test_a_retry_gets_the_first_answer(ada: Creator, record: dict[str, Any], by_header: bool, created_at: bool):
    members: dict[str, Any] = {"record": record}
    if created_at:
        members["createdAt"] = "2026-11-24T02:53:29.5+01:00"
    key = new_key()
    headers = {"Idempotency-Key": key} if by_header else {}
    if not by_header:
        members["idempotencyKey"] = key
    first = ada.create(headers, **members)
    uri = data(first)["uri"]

    for _ in range(2):
        again = ada.create(headers, **members)
        with clause("IDEM-001"):
            assert receipt_of(again) == first.content
        with clause("IDEM-002"):
            assert again.headers.get(REPLAYED) == "true"
            assert first.headers.get(REPLAYED, "false") != "true"
    with clause("IDEM-003"):
        ada.created(record={"displayName": "after"})
        assert [it["uri"] for it in data(ada.listing(limit=3))["records"][1:]].count(uri) == 1
        assert data(ada.listing(limit=2))["records"][1]["uri"] == uri


@judges("IDEM-004")
@for_all(record=profiles(), seed=st.integers(0, 2**32))
def test_another_serialisation_is_the_same_request(ada: Creator, record: dict[str, Any], seed: int):
    record = {**record, "n": 10, "m": [1, 2.5]}
    key = new_key()
    first = ada.create(idempotencyKey=key, record=record)
    data(first)

    body = reserialized(ada.body(idempotencyKey=key, record=record), seed)
    again = ada.vault.send("POST", RECORD, by=ada, content=body.encode())

    assert receipt_of(again) == first.content


@judges("IDEM-005", "IDEM-006")
@for_all(
    every=True,
    other=st.sampled_from(
        [
            {"record": {"displayName": "Bob"}},
            {"record": {"displayName": "Ada", "more": None}},
            {"collection": FOLLOW},
            {"createdAt": "2026-11-24T02:53:29Z"},
            {"createdAt": ...},
            {"schemaVersion": ...},
        ]
    ),
)
def test_another_request_with_the_key_is_refused(ada: Creator, other: dict[str, Any]):
    version = ada.created()["schemaVersion"]
    key = new_key()
    record = {"displayName": "Ada", "subject": "did:example:a"}
    good = {"idempotencyKey": key, "record": record, "createdAt": "2026-11-24T01:00:00Z", "schemaVersion": version}
    first = ada.create(**good)
    uri = data(first)["uri"]

    with clause("IDEM-005"):
        expect_error(ada.create(**{**good, **other}), 409, "CDV_CONFLICT")
    with clause("IDEM-006"):
        assert data(ada.listing(limit=1))["records"][0]["uri"] == uri
        assert receipt_of(ada.create(**good)) == first.content


@judges("IDEM-007")
@newcomer("ada")
def test_keys_of_different_dids_are_independent(ada: Creator, bob: Creator):
    key = new_key()
    hers = ada.created(idempotencyKey=key)
    his = bob.create(idempotencyKey=key, record={"displayName": "Bob"})

    assert data(his)["uri"].startswith(f"at://{bob.did}/")
    assert his.headers.get(REPLAYED, "false") != "true"
    assert [it["uri"] for it in ada.listed()] == [hers["uri"]]


@judges("IDEM-008", "IDEM-009")
def test_header_and_member_are_the_same_key(ada: Creator):
    key = new_key()
    first = ada.create({"Idempotency-Key": key})
    data(first)

    with clause("IDEM-008"):
        assert receipt_of(ada.create(idempotencyKey=key)) == first.content
        assert receipt_of(ada.create({"Idempotency-Key": key}, idempotencyKey=key)) == first.content
    with clause("IDEM-009"):
        expect_error(ada.create({"Idempotency-Key": key}, idempotencyKey=new_key()), 400)


_VISIBLE = "".join(chr(code) for code in range(0x21, 0x7F))


@judges("IDEM-010")
@newcomer("ada")
@for_all(key=st.text(_VISIBLE, min_size=1, max_size=255) | st.sampled_from(["k", "x" * 255, _VISIBLE]))
def test_any_visible_ascii_key_is_accepted(vault: Vault, ada: Creator, key: str):
    first = ada.create(idempotencyKey=key)  # an earlier example may have used the key, which is fine

    assert receipt_of(ada.create(idempotencyKey=key)) == receipt_of(first)


@judges("IDEM-011")
@for_all(
    every=True,
    key=st.sampled_from(
        ["", "x" * 256, "a b", " ", "a\n", "\x7f", "caf\u00e9", "\u200b", "\t", "\U0001f600", "a\x1fb"]
    ),
)
def test_any_other_key_is_refused(ada: Creator, key: str):
    expect_error(ada.create(idempotencyKey=key), 400, "CDV_VALIDATION")


@judges("IDEM-011")
def test_any_other_key_in_the_header_is_refused(ada: Creator):
    for key in ("x" * 256, "a b"):
        expect_error(ada.create({"Idempotency-Key": key}), 400, "CDV_VALIDATION")


@judges("IDEM-012")
@newcomer("ada")
@pytest.mark.parametrize("attempt", range(3))
def test_concurrent_retries_create_one_record(ada: Creator, attempt: int):
    made = []
    for _ in range(RACES):
        responses = concurrently(
            lambda body: ada.create(**body), [ada.body(idempotencyKey=new_key())] * CONCURRENT_REQUESTS
        )

        assert len({receipt_of(response) for response in responses}) == 1, (
            "concurrent requests with one key got different responses"
        )
        made.append(data(responses[0])["uri"])
    assert [it["uri"] for it in ada.listed()] == made[::-1]


@judges("IDEM-013")
@newcomer("ada")
@pytest.mark.parametrize("attempt", range(3))
def test_one_of_several_concurrent_different_requests_is_accepted(ada: Creator, attempt: int):
    made = []
    for _ in range(RACES):
        key = new_key()
        bodies = [
            ada.body(idempotencyKey=key, record={"displayName": str(number)}) for number in range(CONCURRENT_REQUESTS)
        ]
        responses = concurrently(lambda body: ada.create(**body), bodies)

        accepted = [response for response in responses if response.status_code == 200]
        assert len(accepted) == 1, (
            f"{len(accepted)} of {CONCURRENT_REQUESTS} different requests with one key were accepted"
        )
        for response in responses:
            if response is not accepted[0]:
                expect_error(response, 409, "CDV_CONFLICT")
        made.append(data(accepted[0])["uri"])
    assert [it["uri"] for it in ada.listed()] == made[::-1]


@judges("IDEM-014")
def test_a_refused_request_leaves_its_key_unused(ada: Creator):
    key = new_key()
    expect_error(ada.create(idempotencyKey=key, record={}), 400)

    response = ada.create(idempotencyKey=key)

    assert data(response)["uri"].startswith(f"at://{ada.did}/{PROFILE}/")


@judges("IDEM-015")
def test_a_used_key_reveals_nothing_to_others(vault: Vault, ada: Creator, bob: Creator):
    key = new_key()
    ada.created(idempotencyKey=key)

    expect_error(vault.send("POST", RECORD, by=bob, body=ada.body(idempotencyKey=key)), 403, "CDV_DID_MISMATCH")
