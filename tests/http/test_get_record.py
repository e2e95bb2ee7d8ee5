"""GET /v1/repo/record (spec: endpoints, getRecord)."""

from __future__ import annotations

import pytest

from tests.http.api import POST, PROFILE, TIME, Api, Creator, data, refused

UNKNOWN = "01M85VXXZ7T2JXB720KXQH381M"


async def test_a_record_is_returned_as_it_was_written(ada: Creator) -> None:
    receipt = await ada.created(createdAt="2026-01-01T00:00:00Z", record={"displayName": "Ada", "x": [1, 1.5, None]})
    found = data(await ada.get(receipt["uri"]))
    assert found == {
        **receipt,
        "value": {"displayName": "Ada", "x": [1, 1.5, None]},
        "createdAt": "2026-01-01T00:00:00.000000Z",
    }
    assert TIME.fullmatch(found["indexedAt"])


async def test_without_created_at_in_the_request_none_is_returned(ada: Creator) -> None:
    receipt = await ada.created()
    assert set(data(await ada.get(receipt["uri"]))) == {"uri", "cid", "value", "indexedAt", "schemaVersion"}


async def test_the_etag_is_the_cid(ada: Creator) -> None:
    receipt = await ada.created()
    answer = await ada.get(receipt["uri"])
    assert answer.headers["etag"] == f'"{receipt["cid"]}"'


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"other", "{}"', '"other",W/"{}" , "x"', "*", ' "{}" '])
async def test_a_matching_if_none_match_is_answered_with_304(ada: Creator, form: str) -> None:
    receipt = await ada.created()
    answer = await ada.get(receipt["uri"], **{"If-None-Match": form.format(receipt["cid"])})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == f'"{receipt["cid"]}"'
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["x-correlation-id"]


@pytest.mark.parametrize("form", ["", "{}", '"x{}"', '"{}x"', '"other"', "'{}'", 'w/"{}"', "x"])
async def test_another_or_malformed_etag_returns_the_record(ada: Creator, form: str) -> None:
    receipt = await ada.created()
    assert data(await ada.get(receipt["uri"], **{"If-None-Match": form.format(receipt["cid"])}))


async def test_a_missing_record_is_404_with_and_without_if_none_match(ada: Creator) -> None:
    for header in ({}, {"If-None-Match": "*"}):
        refused(await ada.get(f"at://{ada.did}/{PROFILE}/{UNKNOWN}", **header), 404, "CDV_NOT_FOUND")


async def test_a_record_is_found_under_its_own_uri_only(ada: Creator, bob: Creator) -> None:
    uri = (await ada.created())["uri"]
    rkey = uri.rpartition("/")[2]
    for other in (
        f"at://{bob.did}/{PROFILE}/{rkey}",
        f"at://{ada.did}/{POST}/{rkey}",
        f"at://{ada.did}/com.example.unknown/{rkey}",
        uri[:-1],
        uri.lower().replace(ada.did.lower(), ada.did) if rkey.lower() != rkey else uri + "x",
        f"{uri}x",
    ):
        refused(await ada.get(other), 404, "CDV_NOT_FOUND")


async def test_a_uri_is_required(api: Api) -> None:
    assert refused(await api.http.get("/v1/repo/record"), 400, "CDV_VALIDATION")["details"]["field"] == "uri"


async def test_an_escaped_did_is_escaped_in_its_uri(api: Api) -> None:
    creator = api.creator("did:web:example.com%3A8443")
    receipt = await creator.created()
    assert data(await creator.get(receipt["uri"]))["uri"] == receipt["uri"]
    # Not escaped again, %3A is a colon: the URI of another DID.
    refused(await api.http.get(f"/v1/repo/record?uri={receipt['uri']}"), 404, "CDV_NOT_FOUND")
