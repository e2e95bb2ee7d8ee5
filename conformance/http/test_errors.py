"""Refusals: their form, their order, and that there is always one."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from conformance.http.laws import code_of
from conformance.http.profiles import for_all
from conformance.http.requirements import Nonconforming, judges
from conformance.http.values import JSON_VALUES
from conformance.http.vault import FINALIZE, INIT, LIST, RECORD, Creator, Vault, data, json_of, new_key, refused
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

    answer = vault.send(method, f"/v1/nowhere-{'/'.join(segments)}", headers=JSON, content=content)

    refused(answer, 404, "CDV_NOT_FOUND")


@judges("ERR-009")
def test_a_path_beside_a_known_one_is_not_found(vault: Vault, ada: Creator):
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
        answer = vault.send("GET", path, by=ada)
        assert answer.status_code == 404, f"{path}: {answer.status_code}"


@judges("ERR-010")
@for_all(path=st.sampled_from([*METHODS]), method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]))
def test_a_method_that_is_not_there_is_named_with_those_that_are(vault: Vault, ada: Creator, path: str, method: str):
    if method in METHODS[path]:
        return
    answer = vault.send(method, path, by=ada, headers=JSON)

    refused(answer, 405, "CDV_BAD_REQUEST")
    allowed = {name.strip() for name in answer.headers.get("allow", "").split(",")}
    assert METHODS[path] <= allowed, f"Allow: {answer.headers.get('allow')}"
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
    answer = vault.send("POST", path, by=ada, headers={"Content-Type": kind}, content=json.dumps(ada.body()).encode())

    refused(answer, 415, "CDV_BAD_REQUEST")


@judges("ERR-012")
def test_json_may_say_that_it_is_utf_8(vault: Vault, ada: Creator):
    for kind in ("application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON"):
        body = json.dumps(ada.body()).encode()
        data(vault.send("POST", RECORD, by=ada, headers={"Content-Type": kind}, content=body))


_NO_JSON: list[bytes] = [
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
@for_all(path=st.sampled_from(POSTS), content=st.sampled_from(_NO_JSON) | st.binary(max_size=40))
def test_what_is_no_json_object_is_refused(vault: Vault, ada: Creator, path: str, content: bytes):
    refused(vault.send("POST", path, by=ada, headers=JSON, content=content), 400, "CDV_BAD_REQUEST", "CDV_VALIDATION")


@judges("ERR-014")
@for_all(cost=2, path=st.sampled_from(POSTS))
def test_the_media_type_comes_before_the_token(vault: Vault, path: str):
    refused(vault.send("POST", path, headers={"Content-Type": "text/plain"}, content=b"{}"), 415)


@judges("ERR-014")
def test_the_size_comes_before_the_token(vault: Vault, plan: Any):
    body = b'{"x": "' + b"x" * plan.max_body_bytes + b'"}'

    refused(vault.send("POST", RECORD, headers=JSON, content=body), 413)


@judges("ERR-015")
@for_all(
    every=True, path=st.sampled_from(POSTS), content=st.sampled_from([b"{", b"{}", b"[]", b'{"unknown": 1}', b"\xff"])
)
def test_the_token_comes_before_json_and_shape(vault: Vault, path: str, content: bytes):
    refused(vault.send("POST", path, headers=JSON, content=content), 401, "CDV_AUTHN")


@judges("ERR-016")
@for_all(
    every=True,
    change=st.sampled_from(
        [{"unknown": 1}, {"record": 1}, {"createdAt": "yesterday"}, {"idempotencyKey": ""}, {"collection": "x"}]
    ),
)
def test_shape_comes_before_whose_it_is(vault: Vault, ada: Creator, bob: Creator, change: dict[str, Any]):
    refused(vault.send("POST", RECORD, by=bob, body={**ada.body(), **change}), 400)


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
def test_whose_it_is_comes_before_the_schema(vault: Vault, ada: Creator, bob: Creator, change: dict[str, Any]):
    refused(vault.send("POST", RECORD, by=bob, body={**ada.body(), **change}), 403, "CDV_DID_MISMATCH")


@judges("ERR-018")
@for_all(
    every=True,
    change=st.sampled_from([{"record": {}}, {"collection": "com.example.nobody.knows"}, {"schemaVersion": "99.0.0"}]),
)
def test_the_used_key_comes_before_the_schema(ada: Creator, change: dict[str, Any]):
    key = new_key()
    ada.created(idempotencyKey=key)

    refused(ada.create(idempotencyKey=key, **change), 409, "CDV_CONFLICT")


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
def test_a_refusal_is_the_same_each_time(ada: Creator, changes: list[tuple[str, Any]]):
    body = {**ada.body(), **dict(changes)}

    given = [ada.vault.send("POST", RECORD, by=ada, body=body) for _ in range(2)]

    assert given[0].status_code >= 400
    assert len({(answer.status_code, code_of(json_of(answer))) for answer in given}) == 1


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
def test_any_json_is_answered(vault: Vault, ada: Creator, path: str, body: Any):
    _answered(vault.send("POST", path, by=ada, headers=JSON, content=json.dumps(body).encode()))


@judges("ERR-005")
@for_all(record=st.dictionaries(TEXTS, JSON_VALUES, max_size=4), collection=TEXTS, version=TEXTS)
def test_any_record_is_answered(ada: Creator, record: dict[str, Any], collection: str, version: str):
    _answered(ada.create(record={**record, "displayName": "Ada"}))
    _answered(ada.create(record=record, collection=collection))
    _answered(ada.create(schemaVersion=version))


@judges("ERR-005")
@for_all(name=st.sampled_from(["uri", "did", "collection", "limit", "cursor", "since", "until", "x"]), value=TEXTS)
def test_any_query_is_answered(vault: Vault, ada: Creator, name: str, value: str):
    _answered(vault.send("GET", RECORD, by=ada, params={"uri": f"at://{ada.did}/{value}/x", name: value}))
    _answered(vault.send("GET", LIST, by=ada, params={"did": ada.did, name: value}))


_PRINTABLE = st.characters(min_codepoint=33, max_codepoint=126)
_HEADERS = ["Authorization", "If-None-Match", "Idempotency-Key", "traceparent", "Origin", "Accept", "Range"]
_HEADERS += ["X-Forwarded-For", "Accept-Encoding"]


@judges("ERR-005")
@for_all(cost=2, value=st.text(_PRINTABLE, min_size=1, max_size=60) | st.text(_PRINTABLE, min_size=40, max_size=300))
def test_any_header_is_answered(vault: Vault, ada: Creator, value: str):
    for name in _HEADERS:
        by = None if name == "Authorization" else ada
        _answered(vault.send("GET", LIST, by=by, headers={name: value}, params={"did": ada.did}))
        _answered(vault.send("POST", RECORD, by=by, headers={name: value, **JSON}, content=b"{}"))


def _answered(answer: Any) -> None:
    if answer.status_code in {500, 501, 505}:
        raise Nonconforming("ERR-005", f"status {answer.status_code}: {answer.text[:300]}")
