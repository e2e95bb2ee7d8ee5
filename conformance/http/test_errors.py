"""Tests of error responses: their status, code and precedence, and that no input causes a server error."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from conformance.http.json_samples import JSON_VALUES
from conformance.http.laws import code_of
from conformance.http.profiles import for_all
from conformance.http.requirements import Nonconforming, judges
from conformance.http.vault import FINALIZE, INIT, LIST, RECORD, Creator, Vault, data, expect_error, json_of, new_key
from conformance.strategies import TEXTS

_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
METHODS = {  # http-api §3
    RECORD: {"GET", "POST"},
    LIST: {"GET"},
    INIT: {"POST"},
    FINALIZE: {"POST"},
    f"/v1/media/{_ID}/meta": {"GET"},
    f"/v1/media/{_ID}/content": {"GET"},
}
POSTS = (RECORD, INIT, FINALIZE)
JSON = {"Content-Type": "application/json"}
_SEGMENTS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_~.%", min_size=1, max_size=12).filter(
    lambda it: "%" not in it and it not in {".", ".."}
)


@judges("ERR-009")
@for_all(segments=st.lists(_SEGMENTS, min_size=1, max_size=4), method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]))
def test_an_unknown_path_is_not_found(vault: Vault, segments: list[str], method: str):
    content = b"{}" if method in {"POST", "PUT"} else None

    response = vault.send(method, f"/v1/nowhere-{'/'.join(segments)}", headers=JSON, content=content)

    expect_error(response, 404, "CDV_NOT_FOUND")


@judges("ERR-009")
def test_a_path_similar_to_a_known_one_is_not_found(vault: Vault, ada: Creator):
    for path in (
        "/v1",
        "/v1/",
        "/v1/repo",
        "/v1/repo/records",
        "/v1/media",
        "/v1/Repo/record",
        "/v1/repo/record/x",
        "/v2/repo/record",
    ):
        response = vault.send("GET", path, by=ada)
        assert response.status_code == 404, f"{path}: {response.status_code}"


@judges("ERR-010")
@for_all(path=st.sampled_from([*METHODS]), method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]))
def test_an_unsupported_method_is_refused_with_the_allowed_ones(vault: Vault, ada: Creator, path: str, method: str):
    if method in METHODS[path]:
        return
    response = vault.send(method, path, by=ada, headers=JSON)

    expect_error(response, 405, "CDV_BAD_REQUEST")
    allowed = {name.strip() for name in response.headers.get("allow", "").split(",")}
    assert METHODS[path] <= allowed, f"Allow: {response.headers.get('allow')}"
    assert method not in allowed


@judges("ERR-011")
@for_all(
    path=st.sampled_from(POSTS),
    kind=st.sampled_from(
        [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/xml",
            "text/json",
            "application/jsonp",
            "application/octet-stream",
            "application/json-patch+json",
            "application",
        ]
    ),
)
def test_another_media_type_is_refused(vault: Vault, ada: Creator, path: str, kind: str):
    response = vault.send("POST", path, by=ada, headers={"Content-Type": kind}, content=json.dumps(ada.body()).encode())

    expect_error(response, 415, "CDV_BAD_REQUEST")


@judges("ERR-012")
def test_the_media_type_may_have_a_charset_parameter(vault: Vault, ada: Creator):
    for kind in ("application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON"):
        body = json.dumps(ada.body()).encode()
        data(vault.send("POST", RECORD, by=ada, headers={"Content-Type": kind}, content=body))


_INVALID_BODIES: list[bytes] = [
    *(
        b"",
        b"{",
        b"}",
        b"null",
        b"[]",
        b'"x"',
        b"1",
        b"{'did': 1}",
        b'{"did": }',
        b"{}{}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
    ),
    *(
        b'{"did": "\xff"}',
        b"\xff\xfe{\x00}\x00",
        b'{"a": 01}',
        b'{"a": "\t"}',
        b'{"a": 1,}',
        b"true",
        b"\x00",
        b'{"did": "\\x"}',
    ),
]


@judges("ERR-013")
@for_all(path=st.sampled_from(POSTS), content=st.sampled_from(_INVALID_BODIES) | st.binary(max_size=40))
def test_a_body_that_is_not_a_json_object_is_refused(vault: Vault, ada: Creator, path: str, content: bytes):
    expect_error(
        vault.send("POST", path, by=ada, headers=JSON, content=content), 400, "CDV_BAD_REQUEST", "CDV_VALIDATION"
    )


@judges("ERR-014")
@for_all(cost=2, path=st.sampled_from(POSTS))
def test_the_media_type_is_checked_before_the_token(vault: Vault, path: str):
    expect_error(vault.send("POST", path, headers={"Content-Type": "text/plain"}, content=b"{}"), 415)


@judges("ERR-014")
def test_the_size_is_checked_before_the_token(vault: Vault, plan: Any):
    body = b'{"x": "' + b"x" * plan.max_body_bytes + b'"}'

    expect_error(vault.send("POST", RECORD, headers=JSON, content=body), 413)


@judges("ERR-015")
@for_all(
    every=True, path=st.sampled_from(POSTS), content=st.sampled_from([b"{", b"{}", b"[]", b'{"unknown": 1}', b"\xff"])
)
def test_the_token_is_checked_before_json_and_members(vault: Vault, path: str, content: bytes):
    expect_error(vault.send("POST", path, headers=JSON, content=content), 401, "CDV_AUTHN")


@judges("ERR-016")
@for_all(
    every=True,
    change=st.sampled_from(
        [{"unknown": 1}, {"record": 1}, {"createdAt": "yesterday"}, {"idempotencyKey": ""}, {"collection": "x"}]
    ),
)
def test_members_are_checked_before_ownership(vault: Vault, ada: Creator, bob: Creator, change: dict[str, Any]):
    expect_error(vault.send("POST", RECORD, by=bob, body={**ada.body(), **change}), 400)


@judges("ERR-017")
@for_all(
    every=True,
    change=st.sampled_from(
        [
            {"collection": "com.example.nobody.knows"},
            {"record": {}},
            {"schemaVersion": "99.0.0"},
            {"cid": "bafyreiazrbzlipiwm5lcl6i4tyrd6fot4pvigbuea5gfbfkxtaxzyvorai"},
        ]
    ),
)
def test_ownership_is_checked_before_the_schema(vault: Vault, ada: Creator, bob: Creator, change: dict[str, Any]):
    expect_error(vault.send("POST", RECORD, by=bob, body={**ada.body(), **change}), 403, "CDV_DID_MISMATCH")


@judges("ERR-018")
@for_all(
    every=True,
    change=st.sampled_from([{"record": {}}, {"collection": "com.example.nobody.knows"}, {"schemaVersion": "99.0.0"}]),
)
def test_a_used_key_is_checked_before_the_schema(ada: Creator, change: dict[str, Any]):
    key = new_key()
    ada.created(idempotencyKey=key)

    expect_error(ada.create(idempotencyKey=key, **change), 409, "CDV_CONFLICT")


@judges("ERR-019")
@for_all(
    cost=2,
    changes=st.lists(
        st.sampled_from(
            [
                ("record", {}),
                ("unknown", 1),
                ("createdAt", "x"),
                ("collection", "x"),
                ("did", "x"),
                ("cid", "x"),
                ("record", []),
            ]
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_the_same_request_is_refused_in_the_same_way(ada: Creator, changes: list[tuple[str, Any]]):
    body = {**ada.body(), **dict(changes)}

    given = [ada.vault.send("POST", RECORD, by=ada, body=body) for _ in range(2)]

    assert given[0].status_code >= 400
    assert len({(response.status_code, code_of(json_of(response))) for response in given}) == 1


@judges("ERR-005")
@for_all(
    path=st.sampled_from(POSTS),
    body=JSON_VALUES
    | st.dictionaries(
        st.sampled_from(
            [
                "collection",
                "did",
                "record",
                "createdAt",
                "assetId",
                "sha256",
                "size",
                "mimeType",
                "filename",
                "cid",
                "schemaVersion",
                "idempotencyKey",
            ]
        ),
        JSON_VALUES,
    ),
)
def test_any_json_is_handled(vault: Vault, ada: Creator, path: str, body: Any):
    _expect_no_server_error(vault.send("POST", path, by=ada, headers=JSON, content=json.dumps(body).encode()))


@judges("ERR-005")
@for_all(record=st.dictionaries(TEXTS, JSON_VALUES, max_size=4), collection=TEXTS, version=TEXTS)
def test_any_record_is_handled(ada: Creator, record: dict[str, Any], collection: str, version: str):
    _expect_no_server_error(ada.create(record={**record, "displayName": "Ada"}))
    _expect_no_server_error(ada.create(record=record, collection=collection))
    _expect_no_server_error(ada.create(schemaVersion=version))


@judges("ERR-005")
@for_all(name=st.sampled_from(["uri", "did", "collection", "limit", "cursor", "since", "until", "x"]), value=TEXTS)
def test_any_query_is_handled(vault: Vault, ada: Creator, name: str, value: str):
    _expect_no_server_error(vault.send("GET", RECORD, by=ada, params={"uri": f"at://{ada.did}/{value}/x", name: value}))
    _expect_no_server_error(vault.send("GET", LIST, by=ada, params={"did": ada.did, name: value}))


_PRINTABLE = st.characters(min_codepoint=33, max_codepoint=126)
_HEADERS = ["Authorization", "If-None-Match", "Idempotency-Key", "traceparent", "Origin", "Accept", "Range"]
_HEADERS += ["X-Forwarded-For", "Accept-Encoding"]


@judges("ERR-005")
@for_all(cost=2, value=st.text(_PRINTABLE, min_size=1, max_size=60) | st.text(_PRINTABLE, min_size=40, max_size=300))
def test_any_header_is_handled(vault: Vault, ada: Creator, value: str):
    for name in _HEADERS:
        by = None if name == "Authorization" else ada
        _expect_no_server_error(vault.send("GET", LIST, by=by, headers={name: value}, params={"did": ada.did}))
        _expect_no_server_error(vault.send("POST", RECORD, by=by, headers={name: value, **JSON}, content=b"{}"))


def _expect_no_server_error(response: Any) -> None:
    if response.status_code in {500, 501, 505}:
        raise Nonconforming("ERR-005", f"status {response.status_code}: {response.text[:300]}")
