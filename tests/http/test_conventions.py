"""Rules for every request and every response (spec: conventions)."""

from __future__ import annotations

import gzip
import json
import secrets

import httpx
import pytest

from tests.http.api import PROFILE, TIME, Creator, data, refused

ROUTES = {
    "/v1/repo/record": {"GET", "HEAD", "OPTIONS", "POST"},
    "/v1/repo/listRecords": {"GET", "HEAD", "OPTIONS"},
    "/v1/media/uploadInit": {"OPTIONS", "POST"},
    "/v1/media/finalize": {"OPTIONS", "POST"},
    "/v1/media/01M85VXXZ7T2JXB720KXQH381M/meta": {"GET", "HEAD", "OPTIONS"},
    "/v1/media/01M85VXXZ7T2JXB720KXQH381M/content": {"GET", "HEAD", "OPTIONS"},
    "/v1/blobs/upload/x": {"OPTIONS", "PUT"},
    "/v1/blobs/download/x": {"GET", "HEAD", "OPTIONS"},
    "/healthz": {"GET", "HEAD", "OPTIONS"},
    "/readyz": {"GET", "HEAD", "OPTIONS"},
    "/openapi.json": {"GET", "HEAD", "OPTIONS"},
    "/docs": {"GET", "HEAD", "OPTIONS"},
    "/.well-known/jwks.json": {"GET", "HEAD", "OPTIONS"},
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/v1", "/v1/", "/v1/nope", "/v1/repo", "/v1/repo/record/x", "/v2/repo/record", "/V1/repo/record"),
        *(
            "/v1/media",
            "/v1/media//meta",
            "/v1/media/x",
            "/v1/media/x/other",
            "/v1/media/a/b/meta",
            "/v1/blobs/upload/",
        ),
        *("/v1/../etc/passwd", "/v1/%2e%2e/%2e%2e/etc/passwd", "/%00", "/v1/repo/record%00", "/%ff"),
        *("/v1/repo/listrecords", "/favicon.ico", "/healthz/x", "/v1/repo/record;x=1", "/v1/blobs/upload/"),
    ],
)
async def test_an_unknown_path_is_refused_in_the_envelope(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(httpx.URL("http://vault.test").copy_with(raw_path=path.encode()))
    refused(response, 404, "CDV_NOT_FOUND")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_an_unknown_path_is_refused_with_404_for_every_method(http: httpx.AsyncClient, method: str) -> None:
    refused(await http.request(method, "/v1/nope", json={}), 404, "CDV_NOT_FOUND")


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", METHODS)
async def test_an_unsupported_method_is_refused_with_405_and_the_allowed_methods(
    http: httpx.AsyncClient, path: str, method: str
) -> None:
    response = await http.request(method, path)
    if method in ROUTES[path]:
        assert response.status_code != 405
        assert response.status_code != 404 or path.startswith("/v1/blobs/")
        return
    if method == "HEAD":
        assert (response.status_code, response.content) == (405, b"")
    else:
        refused(response, 405, "CDV_BAD_REQUEST")
    assert set(response.headers["allow"].split(", ")) == ROUTES[path]


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize(
    "path",
    ["/metrics/", "//metrics", "/readyz%2F", "/v1//repo/record", "/v1/repo/record/", "/v1/media/01JEXAMPLE/meta/"],
)
async def test_a_path_with_extra_slashes_is_refused_with_404(http: httpx.AsyncClient, method: str, path: str) -> None:
    refused(await http.request(method, f"http://vault{path}"), 404, "CDV_NOT_FOUND")


async def test_every_response_varies_by_origin(http: httpx.AsyncClient, ada: Creator) -> None:
    for answer in (
        await http.get("/healthz"),
        await http.get("/v1/nope"),
        await ada.create(),
        await http.options("/docs"),
    ):
        assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("path", ROUTES)
async def test_options_returns_the_allowed_methods(http: httpx.AsyncClient, path: str) -> None:
    response = await http.options(path)
    assert response.status_code == 204
    assert set(response.headers["allow"].split(", ")) == ROUTES[path]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json", "/docs", "/v1/nope", "/v1/repo/listRecords"])
async def test_head_is_get_without_the_body(http: httpx.AsyncClient, path: str) -> None:
    same = {"X-Correlation-Id": "one"}
    got, headed = await http.get(path, headers=same), await http.head(path, headers=same)
    assert headed.content == b""
    assert headed.status_code == got.status_code
    counted = "x-ratelimit-remaining"
    assert {**headed.headers, counted: ""} == {**got.headers, counted: ""}
    assert int(headed.headers["content-length"]) == len(got.content)


@pytest.mark.parametrize("good", ["a", "A.z_0:9-", "x" * 128, "..", "00000000-0000-0000-0000-000000000000"])
async def test_a_valid_correlation_id_is_echoed(http: httpx.AsyncClient, ada: Creator, good: str) -> None:
    sent = {"X-Correlation-Id": good}
    assert data(await ada.create(headers=sent))
    for answer in (
        await ada.create(headers=sent),
        await http.get("/healthz", headers=sent),
        await http.get("/v1/nope", headers=sent),
        await http.delete("/v1/repo/record", headers=sent),
        await http.post("/v1/repo/record", headers=sent),
        await http.options("/v1/repo/record", headers=sent),
        await http.get("/docs", headers=sent),
    ):
        assert answer.headers.get_list("x-correlation-id") == [good]


@pytest.mark.parametrize(
    "invalid",
    [b"", b" ", b"x" * 129, b"a b", b"a/b", "é".encode(), b"\xff", b"a,b", b"a\tb", b"{}", "a\u0661".encode()],
)
async def test_an_invalid_correlation_id_is_replaced(http: httpx.AsyncClient, invalid: bytes) -> None:
    answers = [await http.get("/v1/nope", headers=[(b"X-Correlation-Id", invalid)]) for _ in range(2)]
    given = [refused(answer, 404, "CDV_NOT_FOUND")["correlationId"] for answer in answers]
    assert given[0] != given[1]
    assert all(fresh.isalnum() and 1 <= len(fresh) <= 128 for fresh in given)


async def test_two_correlation_ids_are_replaced(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/nope", headers=[("X-Correlation-Id", "one"), ("X-Correlation-Id", "two")])
    assert answer.headers["x-correlation-id"] not in {"one", "two"}


async def test_every_response_has_the_security_headers(http: httpx.AsyncClient, ada: Creator) -> None:
    for answer in (
        await http.get("/healthz"),
        await http.get("/v1/nope"),
        await http.get("/docs"),
        await http.put("/v1/blobs/upload/x"),
        await ada.create(),
        await ada.list(),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers.get_list("server") == ["cdv"]


async def test_responses_that_may_change_are_not_reused_by_caches_unchecked(
    http: httpx.AsyncClient, ada: Creator
) -> None:
    receipt = await ada.create()
    for answer in (receipt, await ada.list(), await http.get("/readyz"), await http.get("/v1/nope"), await ada.init()):
        assert answer.headers["cache-control"] == "no-store"
    record = await ada.get(receipt.json()["data"]["uri"])
    assert record.headers["cache-control"] == "private, no-cache"
    assert record.headers["vary"] == "Authorization, Origin"


@pytest.mark.parametrize(
    "media_type",
    [
        *("application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"),
        *('application/json; charset="utf-8"', "application/json ; charset=utf-8", "application/json;"),
        "application/json; charset=utf-8; profile=x",
    ],
)
async def test_every_spelling_of_the_json_media_type_is_accepted(ada: Creator, media_type: str) -> None:
    assert data(await ada.create(headers={"Content-Type": media_type}))


@pytest.mark.parametrize(
    "media_type",
    [
        *("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/cbor"),
        *("application/json; charset=latin-1", "application/json; charset=utf-16", "application/jsonx", "*/*"),
        *("application/ld+json", "application/vnd.api+json", "text/json", "json", "application/json, text/plain"),
        *("application/json charset=utf-8", "application/json; charset=utf-8; charset=utf-16", "application/ json"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/repo/record", "/v1/media/uploadInit", "/v1/media/finalize"])
async def test_another_media_type_is_refused_with_415(ada: Creator, path: str, media_type: str) -> None:
    response = await ada.post(path, b"{}", **{"Content-Type": media_type})
    refused(response, 415, "CDV_BAD_REQUEST")


async def test_a_missing_media_type_is_refused_with_415(ada: Creator) -> None:
    refused(await ada.api.http.post("/v1/repo/record", content=b"{}", headers=ada.auth), 415, "CDV_BAD_REQUEST")


@pytest.mark.parametrize(
    "host", ["[::1", "a b", "a/b", "a@b", "", "[::1]x", "a:b", "a:99999999", "a:65536", "é", "a?b"]
)
async def test_an_invalid_host_header_is_refused(ada: Creator, host: str) -> None:
    # The upload URL is built from it (RFC 9112, 3.2: a server answers an invalid Host with 400).
    body = {"did": ada.did, "mimeType": "image/png", "size": 4}
    answer = await ada.api.http.post(
        "/v1/media/uploadInit", json=body, headers=httpx.Headers({**ada.auth, "Host": host}, encoding="utf-8")
    )
    refused(answer, 400, "CDV_BAD_REQUEST")


@pytest.mark.parametrize(
    "host", ["vault.example", "vault.example:8080", "127.0.0.1:1", "[::1]:8080", "a-b_c.d.", "a:65535"]
)
async def test_the_upload_url_has_the_host_of_the_request(ada: Creator, host: str) -> None:
    body = {"did": ada.did, "mimeType": "image/png", "size": 4}
    answer = await ada.api.http.post("/v1/media/uploadInit", json=body, headers={**ada.auth, "Host": host})
    assert data(answer)["uploadUrl"].startswith(f"http://{host}/v1/blobs/upload/")


@pytest.mark.parametrize("path", ["/v1/repo/record", "/v1/media/uploadInit", "/v1/media/finalize"])
async def test_an_unknown_member_is_refused_by_name(ada: Creator, path: str) -> None:
    bodies = {
        "/v1/repo/record": ada.body(),
        "/v1/media/uploadInit": {"did": ada.did, "mimeType": "image/png", "size": 1},
        "/v1/media/finalize": {"assetId": "01M85VXXZ7T2JXB720KXQH381M", "sha256": "0" * 64},
    }
    for name in (
        "idempotencykey",
        "idempotency_key",
        "createdat",
        "created_at",
        "mime_type",
        "",
        "DID",
        "é",
        "\x00",
        "a`b",
        "q - at `$.did",
    ):
        response = await ada.api.http.post(path, json={**bodies[path], name: "x"}, headers=ada.auth)
        error = refused(response, 400, "CDV_VALIDATION")
        assert error["details"]["field"] == name


@pytest.mark.parametrize("path", ["/v1/repo/listRecords", "/v1/repo/record"])
async def test_an_unknown_parameter_is_refused_by_name(ada: Creator, path: str) -> None:
    good = {"did": ada.did} if "list" in path else {"uri": f"at://{ada.did}/{PROFILE}/x"}
    for name in ("Limit", "limits", "collections", "x", "é", ""):
        error = refused(await ada.api.http.get(path, params={**good, name: "1"}), 400, "CDV_VALIDATION")
        assert error["details"]["field"] == name


async def test_a_parameter_given_twice_is_refused(ada: Creator) -> None:
    response = await ada.api.http.get(f"/v1/repo/listRecords?did={ada.did}&did={ada.did}")
    assert refused(response, 400, "CDV_VALIDATION")["details"]["field"] == "did"


async def test_a_time_is_given_in_utc_with_microseconds(ada: Creator) -> None:
    receipt = await ada.created(createdAt="2026-11-24T05:53:29+03:00")
    assert TIME.fullmatch(receipt["indexedAt"])
    assert data(await ada.get(receipt["uri"]))["createdAt"] == "2026-11-24T02:53:29.000000Z"
    assert TIME.fullmatch(data(await ada.init())["expiresAt"])
    assert TIME.fullmatch((await ada.uploaded())["createdAt"])


async def test_a_valid_or_malformed_traceparent_is_accepted(http: httpx.AsyncClient) -> None:
    for parent in (f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01", "junk", "", "00-" + "0" * 32):
        assert (await http.get("/healthz", headers={"traceparent": parent})).status_code == 200


@pytest.mark.parametrize("path", ["/v1/repo/record", "/v1/media/uploadInit", "/v1/media/finalize"])
async def test_an_unknown_parameter_of_a_post_is_refused_by_name(ada: Creator, path: str) -> None:
    # An idempotency key in the query would otherwise be silently ignored.
    body = json.dumps(ada.body()).encode()
    error = refused(await ada.post(f"{path}?idempotencyKey=x", body), 400, "CDV_VALIDATION")
    assert error["details"]["field"] == "idempotencyKey"
    refused(await ada.api.http.post(f"{path}?x=1", json={}), 401, "CDV_AUTHN")


@pytest.mark.parametrize("what", ["meta", "content"])
async def test_an_unknown_parameter_of_a_media_read_is_refused_by_name(ada: Creator, what: str) -> None:
    asset_id = (await ada.uploaded())["assetId"]
    answer = await ada.api.http.get(f"/v1/media/{asset_id}/{what}?width=1", headers=ada.auth)
    assert refused(answer, 400, "CDV_VALIDATION")["details"]["field"] == "width"


@pytest.mark.parametrize("path", ["/v1/repo/record", "/v1/media/uploadInit", "/v1/media/finalize"])
async def test_an_encoded_body_is_refused_with_415(ada: Creator, path: str) -> None:
    # RFC 9110, 15.5.16: the response names the accepted encoding.
    body = gzip.compress(json.dumps(ada.body()).encode())
    answer = await ada.post(path, body, **{"Content-Encoding": "gzip"})
    refused(answer, 415, "CDV_BAD_REQUEST")
    assert answer.headers["accept-encoding"] == "identity"


async def test_content_encoding_identity_is_accepted(ada: Creator) -> None:
    assert data(await ada.create(headers={"Content-Encoding": "Identity"}))
