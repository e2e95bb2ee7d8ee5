"""Retries of createRecord (spec: domain, idempotency)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.clock import FakeClock
from tests.http.api import POST, Api, Creator, data, refused, serving

DAY = timedelta(hours=24)  # spec: idempotency


@pytest.fixture(scope="module")
async def frozen(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A vault whose clock moves only when advanced."""
    async with serving(tmp_path_factory.mktemp("still"), FakeClock()) as api:
        yield api


async def count(creator: Creator) -> int:
    return len(data(await creator.list(limit=100))["records"])


async def test_a_retry_gets_the_first_response_byte_for_byte(ada: Creator) -> None:
    first = await ada.create(idempotencyKey="k")
    assert data(first)
    assert "idempotent-replayed" not in first.headers
    for _ in range(3):
        again = await ada.create(idempotencyKey="k")
        assert again.content == first.content
        assert again.status_code == 200
        assert again.headers["idempotent-replayed"] == "true"
    assert await count(ada) == 1


async def test_without_a_key_every_request_is_new(ada: Creator) -> None:
    assert (await ada.created())["uri"] != (await ada.created())["uri"]
    assert await count(ada) == 2


async def test_the_key_may_be_sent_as_header_or_member(ada: Creator) -> None:
    first = await ada.create(headers={"Idempotency-Key": "k"})
    assert (await ada.create(idempotencyKey="k")).content == first.content
    both = await ada.create(headers={"Idempotency-Key": "k"}, idempotencyKey="k")
    assert both.content == first.content
    assert both.headers["idempotent-replayed"] == "true"
    assert await count(ada) == 1


async def test_a_header_and_a_member_that_differ_are_refused(ada: Creator) -> None:
    for member in ("K", "k ", "other", ""):
        answer = await ada.create(headers={"Idempotency-Key": "k"}, idempotencyKey=member)
        assert refused(answer, 400, "CDV_VALIDATION")["details"]["field"] == "idempotencyKey"
    assert await count(ada) == 0


async def test_two_idempotency_key_headers_that_differ_are_refused(ada: Creator) -> None:
    headers = [*ada.auth.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = await ada.api.http.post("/v1/repo/record", json=ada.body(), headers=headers)
    refused(answer, 400, "CDV_VALIDATION")


@pytest.mark.parametrize("key", ["!", "~", "a" * 255, "a,b", '"quoted"', "0", "null", "a/b?c=d#e", "\\", "%00"])
async def test_a_key_is_1_to_255_visible_ascii_characters(ada: Creator, key: str) -> None:
    first = await ada.create(idempotencyKey=key)
    assert data(first)
    assert (await ada.create(headers={"Idempotency-Key": key})).content == first.content


@pytest.mark.parametrize(
    "key", ["", " ", "a" * 256, "a b", "a\t", "\n", "é", "\x7f", "\x00", "a\u200b", "\U0001f600", " a"]
)
async def test_an_invalid_key_is_refused(ada: Creator, key: str) -> None:
    error = refused(await ada.create(idempotencyKey=key), 400, "CDV_VALIDATION")
    assert error["details"]["field"] == "idempotencyKey"
    if key.isprintable() and key == key.strip():
        headers = httpx.Headers({**ada.auth, "Idempotency-Key": key}, encoding="utf-8")
        answer = await ada.api.http.post("/v1/repo/record", json=ada.body(), headers=headers)
        assert refused(answer, 400, "CDV_VALIDATION")["details"]["field"] == "idempotencyKey"


@pytest.mark.parametrize(
    "changed",
    [
        {"record": {"displayName": "Eve"}},
        {"record": {"displayName": "Ada", "x": None}},
        {"record": {"displayName": "Ada", "x": 1}},
        {"collection": POST},
        {"createdAt": "2026-11-24T02:53:29Z"},
        {"schemaVersion": "1.0.0"},
        {"schemaVersion": "9.9.9"},
        {"record": {}},
        {"collection": "com.example.unknown"},
    ],
    ids=str,
)
async def test_the_same_key_for_another_request_is_a_conflict(ada: Creator, changed: dict[str, Any]) -> None:
    first = await ada.create(idempotencyKey="k")
    error = refused(await ada.create(idempotencyKey="k", **changed), 409, "CDV_CONFLICT")
    assert error["details"] == {"reason": "idempotency_key_reused", "idempotencyKey": "k"}
    assert await count(ada) == 1
    assert (await ada.create(idempotencyKey="k")).content == first.content


async def test_another_created_at_is_a_conflict_and_another_spelling_of_it_a_replay(ada: Creator) -> None:
    first = await ada.create(idempotencyKey="k", createdAt="2026-11-24T02:53:29Z")
    for same in ("2026-11-24T02:53:29.000000Z", "2026-11-24T05:53:29+03:00", "2026-11-24t02:53:29z"):
        assert (await ada.create(idempotencyKey="k", createdAt=same)).content == first.content
    for other in ("2026-11-24T02:53:29.000001Z", "2026-11-24T02:53:29+03:00", ...):
        refused(await ada.create(idempotencyKey="k", createdAt=other), 409, "CDV_CONFLICT")


async def test_a_retry_may_differ_in_member_order_and_number_spelling(ada: Creator) -> None:
    start = json.dumps(ada.body(record=..., idempotencyKey="k"))[:-1]
    one = await ada.post(
        "/v1/repo/record", f'{start},"record":{{"displayName":"A","a":1,"b":{{"c":1,"d":2}}}}}}'.encode()
    )
    two = await ada.post(
        "/v1/repo/record",
        f'{start} ,  "record":{{"b":{{"d":2e0,"c":1.0}},"a":10e-1,"displayName":"\\u0041"}}}}'.encode(),
    )
    assert data(one)
    assert two.content == one.content
    assert two.headers["idempotent-replayed"] == "true"


async def test_keys_are_scoped_by_did(ada: Creator, bob: Creator) -> None:
    mine, theirs = await ada.created(idempotencyKey="k"), await bob.created(idempotencyKey="k")
    assert ada.did in mine["uri"]
    assert bob.did in theirs["uri"]


async def test_a_refused_request_does_not_use_up_its_key(ada: Creator) -> None:
    refused(await ada.create(idempotencyKey="k", record={}), 400, "CDV_SCHEMA_REJECT")
    refused(await ada.create(idempotencyKey="k", cid="x"), 409, "CDV_CONFLICT")
    assert data(await ada.create(idempotencyKey="k"))


async def test_24_concurrent_retries_make_one_record_and_get_one_response(ada: Creator) -> None:
    answers = await asyncio.gather(*(ada.create(idempotencyKey="k") for _ in range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert await count(ada) == 1


async def test_of_concurrent_different_requests_one_wins_and_the_rest_conflict(ada: Creator) -> None:
    names = [f"name {number}" for number in range(24)]
    answers = await asyncio.gather(*(ada.create(idempotencyKey="k", record={"displayName": name}) for name in names))
    (won,) = (answer for answer in answers if answer.status_code == 200)
    for answer in answers:
        if answer is not won:
            refused(answer, 409, "CDV_CONFLICT")
    (record,) = data(await ada.list())["records"]
    assert record["uri"] == data(won)["uri"]


async def test_a_key_expires_after_24_hours_and_can_be_used_again(frozen: Api) -> None:
    assert frozen.clock is not None
    creator = frozen.creator()
    first = await creator.create(idempotencyKey="k")
    frozen.clock.moment += DAY - timedelta(microseconds=1)
    creator = frozen.creator(creator.did)
    assert (await creator.create(idempotencyKey="k")).content == first.content
    refused(await creator.create(idempotencyKey="k", record={"displayName": "Eve"}), 409, "CDV_CONFLICT")
    frozen.clock.moment += timedelta(microseconds=1)
    second = await creator.create(idempotencyKey="k", record={"displayName": "Eve"})
    assert data(second)["uri"] != data(first)["uri"]
    assert (await creator.create(idempotencyKey="k", record={"displayName": "Eve"})).content == second.content
    refused(await creator.create(idempotencyKey="k"), 409, "CDV_CONFLICT")


async def test_a_retry_is_replayed_after_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        creator = api.creator()
        first = await creator.create(idempotencyKey="k")
    async with serving(tmp_path) as api:
        again = await api.creator(creator.did).create(idempotencyKey="k")
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
