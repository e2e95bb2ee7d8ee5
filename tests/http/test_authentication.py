"""Which tokens are accepted, and how every other request is refused (spec: authentication)."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from joserfc.jwk import OKPKey

from cdv_adapters.tokens.ed25519 import ALGORITHM
from cdv_adapters.tokens.local_key import LocalIssuer
from tests.fakes.clock import FakeClock
from tests.http.api import Api, Creator, data, refused, serving

PROTECTED = [
    ("POST", "/v1/repo/record"),
    ("POST", "/v1/media/uploadInit"),
    ("POST", "/v1/media/finalize"),
    ("GET", "/v1/media/01M85VXXZ7T2JXB720KXQH381M/meta"),
    ("GET", "/v1/media/01M85VXXZ7T2JXB720KXQH381M/content"),
]
EVERYWHERE = [*PROTECTED, ("GET", "/v1/repo/listRecords?did=did:example:a"), ("GET", "/v1/repo/record?uri=x")]


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


def signed(issuer: LocalIssuer, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """Return a token with any contents, correctly signed with the vault's own key."""
    text = f"{encoded(header)}.{encoded(claims)}"
    signature = ALGORITHM.sign(text.encode(), issuer._key)
    return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@pytest.fixture(scope="module")
async def frozen(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A vault whose clock moves only when advanced."""
    async with serving(tmp_path_factory.mktemp("still"), FakeClock()) as api:
        yield api


def claims_of(api: Api, **changes: Any) -> dict[str, Any]:
    assert api.clock is not None
    now = int(api.clock.now().timestamp())
    good = {"iss": "urn:cdv:local-issuer", "aud": "cdv", "sub": "did:example:ada", "exp": now + 60}
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


async def request(
    api: Api, authorization: Any, method: str = "GET", path: str = "/v1/media/01M85VXXZ7T2JXB720KXQH381M/meta"
) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    if authorization is not None:
        headers["Authorization"] = authorization
    return await api.http.request(method, path, headers=headers, content=b"{}" if method == "POST" else b"")


@pytest.mark.parametrize(("method", "path"), PROTECTED)
async def test_protected_operations_without_a_token_are_refused_with_401(api: Api, method: str, path: str) -> None:
    refused(await request(api, None, method, path), 401, "CDV_AUTHN")


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Basic YTpi", "Token x", "bearer:x", "BearerX", "x", ",", "DPoP x"]
)
async def test_an_authorization_other_than_a_bearer_token_is_refused_with_401(
    api: Api, method: str, path: str, authorization: str
) -> None:
    refused(await request(api, authorization, method, path), 401, "CDV_AUTHN")


@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
async def test_every_operation_checks_a_token_that_is_sent(api: Api, method: str, path: str) -> None:
    refused(await request(api, "Bearer a.b.c", method, path), 401, "CDV_JWT_MALFORMED")


async def test_two_authorization_headers_are_refused_with_401(api: Api, ada: Creator) -> None:
    headers = [("Authorization", ada.auth["Authorization"])] * 2
    refused(await api.http.get("/v1/media/x/meta", headers=headers), 401, "CDV_AUTHN")


async def test_the_bearer_scheme_is_case_insensitive(api: Api, ada: Creator) -> None:
    token = ada.auth["Authorization"].removeprefix("Bearer ")
    for scheme in ("Bearer", "bearer", "BEARER", "Bearer  "):
        refused(await request(api, f"{scheme} {token}"), 404, "CDV_NOT_FOUND")


async def test_a_malformed_token_is_refused_as_malformed(frozen: Api) -> None:
    good = signed(frozen.issuer, {"alg": "EdDSA", "kid": frozen.issuer.kid}, claims_of(frozen))
    header, claims, signature = good.split(".")
    for malformed in (
        *(
            "x",
            "..",
            "a.b",
            f"{header}.{claims}",
            f"{good}.x",
            f"{good}=",
            f"{header}.{claims}.!",
            f"{header} .{claims}.x",
        ),
        *(
            f".{claims}.{signature}",
            f"e30.{claims}.{signature}",
            f"bm8.{claims}.{signature}",
            f"W10.{claims}.{signature}",
        ),
        *(f"{encoded(header)}.{claims}.{signature}", f"{encoded({'alg': 'EdDSA'})}.{claims}.{signature}"),
        *(
            f"{encoded({'alg': 'EdDSA', 'kid': 5})}.{claims}.{signature}",
            f"{encoded({'kid': ''})}.{claims}.{signature}",
        ),
    ):
        refused(await request(frozen, f"Bearer {malformed}"), 401, "CDV_JWT_MALFORMED")
    refused(await request(frozen, f"Bearer {good}"), 404, "CDV_NOT_FOUND")


@pytest.mark.parametrize(
    "header",
    [
        *({"alg": "none"}, {"alg": "HS256"}, {"alg": "ES256"}, {"alg": ""}, {"alg": None}, {"alg": "eddsa"}),
        *(
            {"kid": "x"},
            {"alg": ...},
            {"crit": ["exp"], "exp": 1},
            {"jku": "https://example.com/jwks.json"},
            {"jwk": {}},
        ),
    ],
)
async def test_a_token_with_another_key_algorithm_or_an_unsupported_header_is_invalid(
    frozen: Api, header: dict[str, Any]
) -> None:
    whole = {"alg": "EdDSA", "kid": frozen.issuer.kid, **header}
    token = signed(frozen.issuer, {name: value for name, value in whole.items() if value is not ...}, claims_of(frozen))
    refused(await request(frozen, f"Bearer {token}"), 401, "CDV_JWT_INVALID")


@pytest.mark.parametrize("algorithm", ["EdDSA", "Ed25519"])
async def test_eddsa_and_ed25519_are_both_accepted_as_the_algorithm(frozen: Api, algorithm: str) -> None:
    token = signed(frozen.issuer, {"alg": algorithm, "kid": frozen.issuer.kid}, claims_of(frozen))
    refused(await request(frozen, f"Bearer {token}"), 404, "CDV_NOT_FOUND")


@pytest.mark.parametrize(
    "claims",
    [
        *({"iss": ...}, {"iss": "https://other"}, {"iss": 5}, {"iss": ["urn:cdv:local-issuer"]}, {"aud": ...}),
        *({"aud": "cdv2"}, {"aud": []}, {"aud": ["x"]}, {"aud": {"cdv": 1}}, {"aud": 5}, {"exp": ...}, {"exp": True}),
        *({"exp": "9999999999"}, {"exp": None}, {"exp": 10**15}, {"sub": ...}, {"sub": "ada"}, {"sub": ""}, {"sub": 5}),
        *({"sub": "did:example:"}, {"sub": ["did:example:ada"]}, {"sub": "did:example:a b"}),
        *({"nbf": "x"}, {"iat": "x"}, {"nbf": None}),
    ],
)
async def test_a_token_with_a_missing_or_bad_claim_is_invalid(frozen: Api, claims: dict[str, Any]) -> None:
    token = signed(frozen.issuer, {"alg": "EdDSA", "kid": frozen.issuer.kid}, claims_of(frozen, **claims))
    refused(await request(frozen, f"Bearer {token}"), 401, "CDV_JWT_INVALID")


@pytest.mark.parametrize("claims", [{"aud": ["x", "cdv"]}, {"aud": ["cdv"]}, {"exp": 9999999999.5}, {"extra": [1]}])
async def test_valid_claims_are_accepted_in_every_form(frozen: Api, claims: dict[str, Any]) -> None:
    token = signed(frozen.issuer, {"alg": "EdDSA", "kid": frozen.issuer.kid}, claims_of(frozen, **claims))
    refused(await request(frozen, f"Bearer {token}"), 404, "CDV_NOT_FOUND")


@pytest.mark.parametrize(
    ("claim", "seconds", "status", "code"),
    [
        ("exp", -59, 404, "CDV_NOT_FOUND"),
        ("exp", -60, 401, "CDV_JWT_EXPIRED"),
        ("exp", -(10**9), 401, "CDV_JWT_EXPIRED"),
        ("nbf", 60, 404, "CDV_NOT_FOUND"),
        ("nbf", 61, 401, "CDV_JWT_INVALID"),
        ("iat", 60, 404, "CDV_NOT_FOUND"),
        ("iat", 61, 401, "CDV_JWT_INVALID"),
    ],
)
async def test_token_times_are_checked_with_a_leeway_of_one_minute(
    frozen: Api, claim: str, seconds: int, status: int, code: str
) -> None:
    assert frozen.clock is not None
    frozen.clock.moment = frozen.clock.moment.replace(microsecond=0)
    moment = int(frozen.clock.now().timestamp()) + seconds
    token = signed(frozen.issuer, {"alg": "EdDSA", "kid": frozen.issuer.kid}, claims_of(frozen, **{claim: moment}))
    refused(await request(frozen, f"Bearer {token}"), status, code)


async def test_a_token_is_refused_once_it_has_expired(frozen: Api) -> None:
    assert frozen.clock is not None
    creator = frozen.creator()
    assert data(await creator.create())
    frozen.clock.advance(3600 + 61)
    refused(await creator.create(), 401, "CDV_JWT_EXPIRED")
    refused(await creator.list(), 401, "CDV_JWT_EXPIRED")


async def test_a_token_with_a_wrong_signature_is_invalid(frozen: Api) -> None:
    header, claims, signature = frozen.creator().auth["Authorization"].removeprefix("Bearer ").split(".")
    _, other, _ = frozen.creator().auth["Authorization"].removeprefix("Bearer ").split(".")
    flipped = ("B" if signature[0] == "A" else "A") + signature[1:]
    for forged in (f"{header}.{other}.{signature}", f"{header}.{claims}.{flipped}", f"{header}.{claims}."):
        refused(await request(frozen, f"Bearer {forged}"), 401, "CDV_JWT_INVALID")


async def test_a_token_signed_with_another_key_under_the_same_kid_is_invalid(frozen: Api) -> None:
    other = LocalIssuer(OKPKey.generate_key("Ed25519"), issuer="urn:cdv:local-issuer", audience="cdv")
    token = signed(other, {"alg": "EdDSA", "kid": frozen.issuer.kid}, claims_of(frozen))
    refused(await request(frozen, f"Bearer {token}"), 401, "CDV_JWT_INVALID")


async def test_a_refused_token_is_not_repeated_in_the_response(api: Api) -> None:
    answer = await request(api, "Bearer secret.secret.secret")
    assert "secret" not in answer.text


async def test_the_built_in_issuer_publishes_its_key(api: Api) -> None:
    answer = await api.http.get("/.well-known/jwks.json")
    assert answer.status_code == 200
    (key,) = answer.json()["keys"]
    assert set(key) == {"kty", "crv", "x", "kid", "use", "alg"}
    assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("OKP", "Ed25519", "sig", "EdDSA")
    token = api.token("did:example:a")
    assert json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"] == key["kid"]
    assert "max-age" in answer.headers["cache-control"]


async def test_reading_records_needs_no_token(api: Api, ada: Creator) -> None:
    receipt = await ada.created()
    assert data(await api.http.get("/v1/repo/record", params={"uri": receipt["uri"]}))
    assert len(data(await api.http.get("/v1/repo/listRecords", params={"did": ada.did}))["records"]) == 1


async def test_with_read_auth_token_reading_records_needs_a_token_of_any_subject(tmp_path: Path) -> None:
    async with serving(tmp_path, read_auth="token") as api:
        ada, bob = api.creator(), api.creator()
        receipt = await ada.created()
        for path in (f"/v1/repo/record?uri={receipt['uri']}", f"/v1/repo/listRecords?did={ada.did}"):
            refused(await api.http.get(path), 401, "CDV_AUTHN")
            refused(await api.http.get(path, headers={"Authorization": "Bearer x"}), 401, "CDV_JWT_MALFORMED")
            for reader in (ada, bob):
                assert data(await api.http.get(path, headers=reader.auth))
        for path in ("/healthz", "/readyz", "/openapi.json", "/docs", "/.well-known/jwks.json"):
            assert (await api.http.get(path)).status_code == 200


async def test_a_token_expires_after_its_ttl_plus_the_leeway(frozen: Api) -> None:
    assert frozen.clock is not None
    token = frozen.token("did:example:a", ttl_seconds=10)
    frozen.clock.moment += timedelta(seconds=69)
    refused(await request(frozen, f"Bearer {token}"), 404, "CDV_NOT_FOUND")
    frozen.clock.moment += timedelta(seconds=1)
    refused(await request(frozen, f"Bearer {token}"), 401, "CDV_JWT_EXPIRED")
