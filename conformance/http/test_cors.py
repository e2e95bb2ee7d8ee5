"""Which origins' pages may call."""

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
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return vault.send("OPTIONS", path, headers=asked)


def answers_to(vault: Vault, creator: Creator, origin: str) -> list[httpx.Response]:
    """Return answers of all sorts: accepted, refused, not found, preflight."""
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
        not_judged("the target lists *")
    for origin in (f"https://{secrets.token_hex(6)}.example", "null"):
        for answer in [*answers_to(vault, ada, origin), preflight(vault, origin)]:
            assert answer.headers.get(ALLOW) is None, f"{origin} got {ALLOW}: {answer.headers[ALLOW]}"


@judges("CORS-002")
def test_a_preflight_needs_no_token(vault: Vault, plan: Plan):
    for path, method in ((RECORD, "POST"), (LIST, "GET"), (INIT, "POST"), (FINALIZE, "POST")):
        answer = preflight(vault, plan.cors_origin or "https://app.example", path, method)
        assert answer.status_code != 401, f"{path}: {answer.status_code}"  # 403 denies the origin, as many servers do
        if plan.cors_origin:
            assert answer.is_success, f"{path}: {answer.status_code}"


@judges("CORS-003", "CORS-004", "CORS-005")
def test_a_listed_origin_may_read_everything(vault: Vault, ada: Creator, cors_origin: str):
    for answer in answers_to(vault, ada, cors_origin):
        with clause("CORS-003"):
            assert answer.headers.get_list(ALLOW) == [cors_origin]
        with clause("CORS-004"):
            assert "origin" in _names(answer, "vary")
        with clause("CORS-005"):
            assert not EXPOSED - _names(answer, EXPOSE), f"not exposed: {sorted(EXPOSED - _names(answer, EXPOSE))}"


@judges("CORS-004")
def test_caches_are_told_that_the_origin_matters(vault: Vault, ada: Creator, cors_origin: str):
    for headers in ({}, {"Origin": "https://another.example"}, {"Origin": cors_origin}):
        answer = vault.send("GET", LIST, by=ada, headers=headers, params={"did": ada.did})
        assert "origin" in _names(answer, "vary"), f"Vary: {answer.headers.get('vary')} for {headers}"


@judges("CORS-006")
def test_a_listed_origin_may_ask_for_what_the_api_needs(vault: Vault, cors_origin: str):
    wanted = "authorization, content-type, idempotency-key, x-correlation-id, if-none-match"
    for path, method in ((RECORD, "POST"), (LIST, "GET"), (INIT, "POST")):
        answer = preflight(vault, cors_origin, path, method, wanted)
        assert answer.is_success
        assert answer.headers.get(ALLOW) == cors_origin
        # GET and POST need no leave of their own (Fetch, CORS-safelisted method).
        granted = _names(answer, "access-control-allow-headers")
        missing = {name.strip() for name in wanted.split(",")} - granted
        assert not missing, f"not granted: {sorted(missing)}"


@judges("CORS-007")
def test_nearly_the_listed_origin_is_not_it(vault: Vault, ada: Creator, cors_origin: str):
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
        for answer in (ada.create({"Origin": origin}), preflight(vault, origin)):
            assert answer.headers.get(ALLOW) is None, f"{origin} got {ALLOW}: {answer.headers[ALLOW]}"


def _names(answer: httpx.Response, header: str) -> set[str]:
    return {name.strip().lower() for name in ",".join(answer.headers.get_list(header)).split(",")}
