"""A request with several things wrong is refused for the first of them, in the contract's order (spec: conventions)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.http.api import POST, PROFILE, Api, Creator, data, refused, serving

BIG = 300 * 1024


@dataclass
class Fault:
    """A fault in a createRecord request: what it changes, and the expected error."""

    name: str
    status: int
    code: str
    members: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    prefix: bytes = b""


# One for each check, in the contract's order.
FAULTS = (
    Fault("size", 413, "CDV_BAD_REQUEST", prefix=b" " * BIG),
    Fault("media type", 415, "CDV_BAD_REQUEST", headers={"Content-Type": "text/plain"}),
    Fault("authentication", 401, "CDV_JWT_MALFORMED", headers={"Authorization": "Bearer junk"}),
    Fault("JSON", 400, "CDV_BAD_REQUEST", prefix=b"}"),
    Fault("shape", 400, "CDV_VALIDATION", {"createdAt": 5}),
    Fault("DID authorisation", 403, "CDV_DID_MISMATCH", {"did": "did:example:else"}),
    Fault("replay", 409, "CDV_CONFLICT", {"idempotencyKey": "used"}),
    Fault("collection", 400, "CDV_VALIDATION", {"collection": "com.example.unknown"}),
    Fault("schema", 400, "CDV_SCHEMA_REJECT", {"record": {"bio": "no name"}}),
    Fault("cid", 409, "CDV_CONFLICT", {"cid": "bafyrei"}),
)


@pytest.fixture(scope="module")
async def small(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A vault with a body limit that is cheap to exceed."""
    async with serving(tmp_path_factory.mktemp("small"), max_body_bytes=BIG) as api:
        yield api


async def send(creator: Creator, *faults: Fault) -> Any:
    members = {name: value for fault in faults for name, value in fault.members.items()}
    headers = {name: value for fault in faults for name, value in fault.headers.items()}
    request = creator.api.http.build_request("POST", "/v1/repo/record", json=creator.body(**members))
    content = b"".join(fault.prefix for fault in faults) + request.content
    headers = {"Content-Type": "application/json", **creator.auth, **headers}
    return await creator.api.http.post("/v1/repo/record", content=content, headers=headers)


@pytest.mark.parametrize(("first", "second"), list(combinations(FAULTS, 2)), ids=lambda fault: fault.name)
async def test_of_two_faults_the_one_checked_first_is_reported(small: Api, first: Fault, second: Fault) -> None:
    creator = small.creator()
    data(await creator.create(idempotencyKey="used", record={"displayName": "first"}))
    refused(await send(creator, second), second.status, second.code)
    refused(await send(creator, first, second), first.status, first.code)
    refused(await send(creator, second, first), first.status, first.code)


async def test_of_all_faults_at_once_the_one_checked_first_is_reported(small: Api) -> None:
    creator = small.creator()
    for number, fault in enumerate(FAULTS):
        rest = FAULTS[number:]
        if fault.name == "replay":
            data(await creator.create(idempotencyKey="used", record={"displayName": "first"}))
        refused(await send(creator, *reversed(rest)), fault.status, fault.code)


async def test_a_replay_is_returned_before_later_checks(ada: Creator, tmp_path: Path) -> None:
    first = await ada.create(idempotencyKey="k")
    again = await ada.create(idempotencyKey="k", cid="bafyreiwrong")
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"


async def test_nothing_is_written_by_a_refused_request(small: Api) -> None:
    creator = small.creator()
    data(await creator.create(idempotencyKey="used", record={"displayName": "first"}))
    before = data(await creator.list())["records"]
    for fault in FAULTS:
        refused(await send(creator, fault), fault.status, fault.code)
    assert data(await creator.list())["records"] == before


async def test_media_operations_authenticate_before_they_validate(ada: Creator, bob: Creator) -> None:
    http = ada.api.http
    for path in ("/v1/media/uploadInit", "/v1/media/finalize"):
        refused(await http.post(path, content=b"{", headers={"Content-Type": "text/plain"}), 415, "CDV_BAD_REQUEST")
        refused(await http.post(path, content=b"{", headers={"Content-Type": "application/json"}), 401, "CDV_AUTHN")
        refused(await ada.post(path, b"{"), 400, "CDV_BAD_REQUEST")
        refused(await ada.post(path, b"{}"), 400, "CDV_VALIDATION")
    refused(await ada.init(did=bob.did, size=0), 400, "CDV_VALIDATION")
    refused(await ada.init(did=bob.did, size=2**40, mimeType="x/y"), 403, "CDV_DID_MISMATCH")
    for wrong in ("nope", "01M85VXXZ7T2JXB720KXQH381M"):
        refused(await http.get(f"/v1/media/{wrong}/meta"), 401, "CDV_AUTHN")
        refused(await http.get(f"/v1/media/{wrong}/content"), 401, "CDV_AUTHN")


async def test_reads_check_the_token_before_the_parameters(api: Api, bob: Creator) -> None:
    junk = {"Authorization": "Bearer junk"}
    for path in ("/v1/repo/listRecords?did=x&limit=0", "/v1/repo/record?uri=x", "/v1/repo/record"):
        refused(await api.http.get(path, headers=junk), 401, "CDV_JWT_MALFORMED")
        refused(await api.http.get(path), 400, "CDV_VALIDATION")


async def test_the_author_is_compared_with_the_subject_before_the_schema_is_applied(ada: Creator, bob: Creator) -> None:
    record = {"text": 5, "authorDid": bob.did}
    error = refused(await ada.create(collection=POST, record=record), 403, "CDV_DID_MISMATCH")
    assert error["details"]["field"] == "record/authorDid"
    refused(await ada.create(collection="com.example.unknown", record=record), 403, "CDV_DID_MISMATCH")
    refused(
        await ada.create(collection=PROFILE, record={"displayName": "x", "authorDid": bob.did}), 403, "CDV_DID_MISMATCH"
    )
    for nobody in (5, None, [ada.did]):
        record = {"text": 5, "authorDid": nobody}
        error = refused(await ada.create(collection=POST, record=record), 403, "CDV_DID_MISMATCH")
        assert error["details"]["field"] == "record/authorDid"
