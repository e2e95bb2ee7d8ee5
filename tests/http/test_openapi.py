"""The OpenAPI document describes the whole service and equals the one in docs/ (spec: endpoints, openapi.json)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar import Litestar
from litestar.routes import HTTPRoute

from cdv_adapters.settings import Settings
from cdv_core.domain.identifiers import AssetId, Did, Nsid
from cdv_core.domain.media import Sha256
from cdv_http.bodies import ASSET_ID, COLLECTION, DID, FinalizeBody
from cdv_http.error_responses import STATUS_OF_CODE
from cdv_http.openapi import codes_of, openapi_document
from cdv_http.openapi_endpoints import ENDPOINTS
from tests.http.api import Api, Creator

ROOT = Path(__file__).parents[2]
DOCUMENT = openapi_document()
OPERATIONS = [
    (method, path, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]
# The error codes of each endpoint in the contract's sections 2 and 3; shared ones are checked separately.
OWN_CODES = {
    "createRecord": {"CDV_SCHEMA_REJECT", "CDV_DID_MISMATCH", "CDV_CONFLICT", "CDV_VALIDATION", "CDV_BAD_REQUEST"},
    "getRecord": {"CDV_NOT_FOUND", "CDV_VALIDATION", "CDV_AUTHZ"},
    "listRecords": {"CDV_CURSOR_INVALID", "CDV_VALIDATION", "CDV_AUTHZ"},
    "uploadInit": {"CDV_MEDIA_SIZE", "CDV_MEDIA_TYPE", "CDV_DID_MISMATCH", "CDV_VALIDATION", "CDV_BAD_REQUEST"},
    "finalize": {"CDV_CONFLICT", "CDV_MEDIA_CHECKSUM", "CDV_MEDIA_SIZE", "CDV_MEDIA_TYPE", "CDV_DID_MISMATCH",
                 "CDV_NOT_FOUND", "CDV_VALIDATION", "CDV_BAD_REQUEST"},
    "mediaMeta": {"CDV_NOT_FOUND", "CDV_VALIDATION"},
    "mediaContent": {"CDV_VALIDATION", "CDV_NOT_FOUND", "CDV_BAD_REQUEST"},  # where the Host header is not valid
}  # fmt: skip
TOKEN_CODES = {
    "CDV_AUTHN",
    "CDV_JWT_MALFORMED",
    "CDV_JWT_EXPIRED",
    "CDV_JWT_INVALID",
    "CDV_RATE_LIMIT",
    "CDV_UNAVAILABLE",
}


def test_the_document_in_docs_equals_the_generated_one() -> None:
    kept = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
    assert kept == DOCUMENT, "run: cdv openapi > docs/openapi.json"


async def test_the_served_document_equals_the_generated_one(http: httpx.AsyncClient) -> None:
    answer = await http.get("/openapi.json")
    assert answer.json() == DOCUMENT
    assert answer.headers["content-type"] == "application/json"
    assert "max-age" in answer.headers["cache-control"]


def test_every_route_is_in_the_document_and_the_reverse(api: Api) -> None:
    app: Any = api.app
    while not isinstance(app, Litestar):
        app = app._app
    routes = {
        (method.lower(), re.sub(r":str}", "}", route.path))
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods
        if method != "OPTIONS"
    }
    assert routes == {(method, path) for method, path, _ in OPERATIONS}


def test_every_error_code_is_in_the_document_with_its_status() -> None:
    documented = set()
    for _, _, operation in OPERATIONS:
        for status, response in operation["responses"].items():
            for code in re.findall(r"CDV_[A-Z_]+", response["description"]):
                documented.add(code)
                kept = {"CDV_BAD_REQUEST": {"400", "413", "415", "416"}}.get(code, {str(STATUS_OF_CODE[code])})
                assert status in kept
    assert documented == set(STATUS_OF_CODE)
    assert DOCUMENT["components"]["schemas"]["ErrorBody"]["properties"]["code"]["enum"] == list(STATUS_OF_CODE)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.operation_id)
def test_every_endpoint_documents_the_error_codes_of_the_contract(endpoint: Any) -> None:
    codes = set(codes_of(endpoint))
    assert "CDV_INTERNAL" in codes
    assert codes >= OWN_CODES.get(endpoint.operation_id, set())
    if endpoint.operation_id in OWN_CODES:
        assert codes >= TOKEN_CODES
        assert codes == OWN_CODES[endpoint.operation_id] | TOKEN_CODES | {"CDV_INTERNAL"}
    responses = DOCUMENT["paths"][endpoint.path][endpoint.method]["responses"]
    assert {str(STATUS_OF_CODE[code]) for code in codes} <= set(responses)
    assert ({"413", "415"} <= set(responses)) == (endpoint.method == "post")


def test_every_response_documents_its_headers() -> None:
    for _, path, operation in OPERATIONS:
        for status, response in operation["responses"].items():
            assert "X-Correlation-Id" in response["headers"]
            assert ("Retry-After" in response["headers"]) == (status in {"429", "503"})
            assert ("WWW-Authenticate" in response["headers"]) == (status == "401")
            assert ("X-RateLimit-Limit" in response["headers"]) == ("429" in operation["responses"])
            if int(status) >= 400:
                assert list(response["content"]) == ["application/json"]
        assert ("429" in operation["responses"]) == (path.startswith(("/v1/repo", "/v1/media")))


def test_304_documents_the_same_headers_as_200() -> None:
    responses = openapi_document()["paths"]["/v1/repo/record"]["get"]["responses"]
    assert responses["304"]["headers"] == responses["200"]["headers"]
    assert "ETag" in responses["304"]["headers"]


def test_every_operation_documents_the_correlation_id_and_traceparent_headers() -> None:
    for _, path, operation in OPERATIONS:
        headers = {header["name"] for header in operation["parameters"] if header["in"] == "header"}
        assert {"X-Correlation-Id", "traceparent"} <= headers, path


def test_every_operation_that_can_be_shed_documents_503() -> None:
    for _, path, operation in OPERATIONS:
        assert "503" in operation["responses"] or path in {"/healthz", "/metrics"}, path


def test_every_reference_and_link_resolves() -> None:
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(DOCUMENT)):
        part: Any = DOCUMENT
        for name in reference.split("/"):
            part = part[name]
    operations = {operation["operationId"]: operation for _, _, operation in OPERATIONS}
    assert len(operations) == len(OPERATIONS)
    for operation in operations.values():
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                names = {parameter["name"] for parameter in operations[link["operationId"]]["parameters"]}
                assert set(link.get("parameters", {})) <= names


def test_every_schema_is_a_valid_json_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
@pytest.mark.parametrize(
    ("schema", "parse"),
    [
        (DID, Did.parse),
        (COLLECTION, Nsid.parse),
        (ASSET_ID, AssetId.parse),
        (DOCUMENT["components"]["schemas"]["FinalizeBody"]["properties"]["sha256"], Sha256.parse),
    ],
)
def test_the_domain_accepts_what_the_documented_patterns_allow(
    schema: dict[str, Any], parse: Any, data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(schema["pattern"], fullmatch=True).filter(lambda drawn: not drawn.endswith("\n")))
    if len(text) <= schema.get("maxLength", 300):
        assert str(parse(text)) in {text, text.lower()}


async def test_responses_conform_to_the_document(ada: Creator) -> None:
    receipt = await ada.create(createdAt="2026-01-01T00:00:00Z")
    uri = receipt.json()["data"]["uri"]
    ticket = await ada.staged(filename="x.png")
    answers = [
        ("post", "/v1/repo/record", receipt),
        ("get", "/v1/repo/record", await ada.get(uri)),
        ("get", "/v1/repo/listRecords", await ada.list(limit=1)),
        ("post", "/v1/media/uploadInit", await ada.init()),
        ("get", "/v1/media/{assetId}/meta", await ada.meta(ticket["assetId"])),
        ("post", "/v1/media/finalize", await ada.finalize(ticket["assetId"])),
        ("get", "/v1/media/{assetId}/meta", await ada.meta(ticket["assetId"])),
        ("get", "/healthz", await ada.api.http.get("/healthz")),
        ("get", "/readyz", await ada.api.http.get("/readyz")),
        ("post", "/v1/repo/record", await ada.create(record={})),
        ("post", "/v1/repo/record", await ada.create(did="did:example:else")),
        ("get", "/v1/repo/record", await ada.get("x")),
        ("get", "/v1/repo/listRecords", await ada.list(cursor="x")),
    ]
    for method, path, answer in answers:
        response = DOCUMENT["paths"][path][method]["responses"][str(answer.status_code)]
        schema = {**response["content"]["application/json"]["schema"], "components": DOCUMENT["components"]}
        jsonschema.validate(answer.json(), schema, jsonschema.Draft202012Validator)


def test_request_bodies_allow_no_additional_properties() -> None:
    for name in ("CreateRecordBody", "UploadInitBody", FinalizeBody.__name__):
        assert DOCUMENT["components"]["schemas"][name]["additionalProperties"] is False


async def test_the_docs_page_shows_every_endpoint_and_loads_nothing_from_other_hosts(http: httpx.AsyncClient) -> None:
    answer = await http.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    for _, path, operation in OPERATIONS:
        assert path in answer.text
        assert f"id='{operation['operationId']}'" in answer.text
    for code in STATUS_OF_CODE:
        assert code in answer.text
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", answer.text)
    assert "<script" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_with_s3_and_an_external_issuer_there_are_no_blob_or_jwks_routes(tmp_path: Path) -> None:
    from cdv_http.app import _routes

    elsewhere = Settings.embedded(tmp_path).model_copy(update={"s3_endpoint": "https://s3", "jwt_issuer": "https://id"})
    paths = {path for handler in _routes(elsewhere) for path in handler.paths}
    assert not any("blobs" in path or "jwks" in path for path in paths)
    assert "/v1/repo/record" in paths
