"""Tests of CORS: pages of which origins may read responses."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

import httpx

from conformance.http.plan import Plan
from conformance.http.requirements import clause, judges, not_judged
from conformance.http.vault import FINALIZE, INIT, LIST, RECORD, Creator, Vault

ALLOW, EXPOSE = "access-control-allow-origin", "access-control-expose-headers"
EXPOSED = {"x-correlation-id", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"}


def preflight(
    vault: Vault, origin: str, path: str = RECORD, method: str = "POST", headers: str = "authorization, content-type"
) -> httpx.Response:
    sent = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return vault.send("OPTIONS", path, headers=sent)


def sample_responses(vault: Vault, creator: Creator, origin: str) -> list[httpx.Response]:
    """Return responses of several kinds: 200, 400, 401 and 404."""
    return [
        creator.create({"Origin": origin}),
        vault.send("GET", LIST, by=creator, headers={"Origin": origin}, params={"did": creator.did}),
        creator.create({"Origin": origin}, record={}),
        vault.send("POST", RECORD, headers={"Origin": origin}, body=creator.body()),
        vault.send("GET", "/v1/nowhere", headers={"Origin": origin}),
    ]


@judges("CORS-001")
def test_an_origin_that_is_not_listed_gets_nothing(vault: Vault, plan: Plan, ada: Creator):
    if plan.cors_origin == "*":
        not_judged("the target allows every origin (--cors-origin *)")
    for origin in (f"https://{secrets.token_hex(6)}.example", "null"):
        for response in [*sample_responses(vault, ada, origin), preflight(vault, origin)]:
            assert response.headers.get(ALLOW) is None, f"{origin} got {ALLOW}: {response.headers[ALLOW]}"


@judges("CORS-002")
def test_a_preflight_needs_no_token(vault: Vault, plan: Plan):
    for path, method in ((RECORD, "POST"), (LIST, "GET"), (INIT, "POST"), (FINALIZE, "POST")):
        response = preflight(vault, plan.cors_origin or "https://app.example", path, method)
        assert response.status_code != 401, (
            f"{path}: {response.status_code}"
        )  # many servers answer 403 for an origin that is not allowed
        if plan.cors_origin:
            assert response.is_success, f"{path}: {response.status_code}"


@judges("CORS-003", "CORS-004", "CORS-005")
def test_a_listed_origin_may_read_everything(vault: Vault, ada: Creator, cors_origin: str):
    for response in sample_responses(vault, ada, cors_origin):
        with clause("CORS-003"):
            assert response.headers.get_list(ALLOW) == [cors_origin]
        with clause("CORS-004"):
            assert "origin" in _names(response, "vary")
        with clause("CORS-005"):
            assert not EXPOSED - _names(response, EXPOSE), (
                f"{EXPOSE} lacks {sorted(EXPOSED - _names(response, EXPOSE))}"
            )


@judges("CORS-004")
def test_caches_are_told_that_the_origin_matters(vault: Vault, ada: Creator, cors_origin: str):
    for headers in ({}, {"Origin": "https://another.example"}, {"Origin": cors_origin}):
        response = vault.send("GET", LIST, by=ada, headers=headers, params={"did": ada.did})
        assert "origin" in _names(response, "vary"), f"Vary: {response.headers.get('vary')} for {headers}"


@judges("CORS-006")
def test_a_listed_origin_may_ask_for_what_the_api_needs(vault: Vault, cors_origin: str):
    wanted = "authorization, content-type, idempotency-key, x-correlation-id, if-none-match"
    for path, method in ((RECORD, "POST"), (LIST, "GET"), (INIT, "POST")):
        response = preflight(vault, cors_origin, path, method, wanted)
        assert response.is_success
        assert response.headers.get(ALLOW) == cors_origin
        # GET and POST need not be listed in Access-Control-Allow-Methods (Fetch, CORS-safelisted method).
        granted = _names(response, "access-control-allow-headers")
        missing = {name.strip() for name in wanted.split(",")} - granted
        assert not missing, f"Access-Control-Allow-Headers lacks {sorted(missing)}"


@judges("CORS-007")
def test_an_origin_similar_to_a_listed_one_gets_nothing(vault: Vault, ada: Creator, cors_origin: str):
    parts = urlsplit(cors_origin)
    host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    other_scheme = "http" if parts.scheme == "https" else "https"
    near = [
        f"{other_scheme}://{host}{port}",
        f"{parts.scheme}://{host}:1",
        f"{parts.scheme}://x.{host}{port}",
        f"{parts.scheme}://x{host}{port}",
        f"{parts.scheme}://{host}.evil.example{port}",
        f"{cors_origin}/",
        f"{parts.scheme}://{host.replace('.', 'x', 1)}{port}",
    ]
    for origin in near:
        if origin == cors_origin:
            continue
        for response in (ada.create({"Origin": origin}), preflight(vault, origin)):
            assert response.headers.get(ALLOW) is None, f"{origin} got {ALLOW}: {response.headers[ALLOW]}"


def _names(response: httpx.Response, header: str) -> set[str]:
    return {name.strip().lower() for name in ",".join(response.headers.get_list(header)).split(",")}
