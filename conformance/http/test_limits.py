"""Tests of rate limits and sizes. The rate limits are read from the target's headers; the last test exhausts one."""

from __future__ import annotations

import http.client
import json
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
from hypothesis import strategies as st

from conformance.http.exchanges import RECORDER, Exchange
from conformance.http.fixtures import newcomer
from conformance.http.plan import Plan
from conformance.http.profiles import for_all
from conformance.http.requirements import Undecided, clause, judges, not_judged
from conformance.http.vault import LIST, RECORD, Creator, Vault, concurrently, data, expect_error, new_key

JSON = {"Content-Type": "application/json"}
RECORD_MAX_BYTES = 256 * 1024  # http-api §5
NESTING_MAX = 32  # http-api §5
# The contract leaves open whether the record itself and its innermost value count as levels: depths this near the limit
# are not judged.
NESTING_SLACK = 2
SPENT_MAX = {"quick": 150, "default": 700, "thorough": 5000}  # requests that a run may send to exhaust a rate limit
REQUESTS_COUNTED, ROUNDS_COUNTED = 12, 5
CHUNK_BYTES = 65536
RESPONSE_SECONDS = 35  # the contract's request timeout of 30 s, plus 5 s for the network


def budget_of(response: httpx.Response) -> tuple[int, int, str]:
    """Return the limit, the remaining requests, and X-RateLimit-Reset as it was sent."""
    limit, remaining, reset = (response.headers.get(f"x-ratelimit-{it}", "") for it in ("limit", "remaining", "reset"))
    assert limit.isdecimal(), f"X-RateLimit-Limit: {limit or 'missing'}"
    assert remaining.isdecimal(), f"X-RateLimit-Remaining: {remaining or 'missing'}"
    assert reset.isdecimal(), f"X-RateLimit-Reset: {reset or 'missing'}"
    return int(limit), int(remaining), reset


@judges("LIMIT-001")
def test_responses_show_the_rate_limit(ada: Creator):
    responses = [
        ada.create(),
        ada.listing(),
        ada.get("at://did:example:a/com.example.b/c"),
        ada.init(),
        ada.create(record={}),
    ]
    asset = ada.finalized()["assetId"]
    responses += [ada.meta(asset), ada.vault.send("GET", f"/v1/media/{asset}/content", by=ada)]
    for response in responses:
        limit, remaining, _ = budget_of(response)
        assert 0 <= remaining <= limit


@judges("LIMIT-001", "LIMIT-002")
def test_responses_without_a_token_show_the_rate_limit(vault: Vault, ada: Creator):
    def listing() -> httpx.Response:  # of a new DID each time, so that no cache answers
        return vault.send("GET", LIST, params={"did": f"did:example:{new_key()}"})

    uri = ada.created()["uri"]
    if listing().status_code == 401:
        not_judged("the target requires a token for reads, and refused requests need not be counted")
    with clause("LIMIT-001"):
        for response in (listing(), vault.get(uri)):
            limit, remaining, _ = budget_of(response)
            assert 0 <= remaining <= limit
    with clause("LIMIT-002"):
        assert any(len(remaining_at_once(listing)) > 1 for _ in range(ROUNDS_COUNTED)), (
            "X-RateLimit-Remaining never decreases"
        )


@judges("LIMIT-002")
def test_a_request_is_counted(ada: Creator):
    for call in (ada.create, ada.listing):
        assert any(len(remaining_at_once(call)) > 1 for _ in range(ROUNDS_COUNTED)), (
            "X-RateLimit-Remaining never decreases"
        )


def remaining_at_once(call: Callable[[], httpx.Response]) -> set[int]:
    """Return what remained after each of several concurrent requests; one by one, a budget could refill in between."""
    return {budget_of(response)[1] for response in concurrently(lambda _: call(), range(REQUESTS_COUNTED))}


@judges("LIMIT-003", "LIMIT-004")
@newcomer("ada", "bob")
def test_subjects_and_kinds_have_budgets_of_their_own(vault: Vault, ada: Creator, bob: Creator):
    # Neither creator has sent such requests before, so no replica has counted more than those of this test.
    with clause("LIMIT-003"):
        assert counted_by(ada.create, *[ada.listing] * 3) <= 1, "reads were counted as writes"
        assert counted_by(bob.listing, *[bob.create] * 3) <= 1, "writes were counted as reads"
    with clause("LIMIT-004"):
        other = vault.creator()
        assert counted_by(other.create, *[bob.create] * 3) <= 1, "another subject's writes were counted"
        assert counted_by(other.listing, *[ada.listing] * 3) <= 1, "another subject's reads were counted"


def counted_by(call: Callable[[], httpx.Response], *between: Callable[[], httpx.Response]) -> int:
    """Return how many requests were counted from one call to the next, with others in between.

    Negative if the budget was refilled in between.
    """
    before = budget_of(call())[1]
    for other in between:
        other()
    return before - budget_of(call())[1]


@judges("LIMIT-006")
@for_all(cost=3, beyond=st.integers(1, 70_000), declared=st.booleans())
def test_a_body_over_the_limit_is_refused(vault: Vault, plan: Plan, ada: Creator, beyond: int, declared: bool):
    expect_error(_sent_padded(vault, ada, plan.max_body_bytes + beyond, declared), 413, "CDV_BAD_REQUEST")


@judges("LIMIT-006", "LIMIT-012")
@for_all(every=True, declared=st.booleans())
def test_the_body_limit_is_exact(vault: Vault, plan: Plan, ada: Creator, declared: bool):
    with clause("LIMIT-012"):
        response = _sent_padded(vault, ada, plan.max_body_bytes, declared)
        assert response.status_code == 200, f"a body of {plan.max_body_bytes} bytes is answered {response.status_code}"
    with clause("LIMIT-006"):
        expect_error(_sent_padded(vault, ada, plan.max_body_bytes + 1, declared), 413, "CDV_BAD_REQUEST")


def _sent_padded(vault: Vault, creator: Creator, size: int, declared: bool) -> httpx.Response:
    """Send a valid create padded with spaces to that size, with a Content-Length or in chunks."""
    body = json.dumps(creator.body()).encode()
    if len(body) > size:
        not_judged(f"a body limit of {size} bytes leaves no room for a record")
    padded = body.ljust(size)
    content = padded if declared else [padded[at : at + CHUNK_BYTES] for at in range(0, size, CHUNK_BYTES)]
    return vault.send("POST", RECORD, by=creator, headers=JSON, content=content)


@judges("LIMIT-007")
def test_a_wrong_content_length_is_refused(vault: Vault, plan: Plan, ada: Creator):
    body = json.dumps(ada.body()).encode()
    with clause("LIMIT-007"):
        # Longer than the body.
        status = _send_with_content_length(vault, ada, str(plan.max_body_bytes + 1), body)
        assert status in {413, 400, None}, status
        # Not a length.
        for length in ("-1", "abc", "1e3"):
            status = _send_with_content_length(vault, ada, length, body)
            assert status in {413, 400, None}, f"Content-Length: {length} is answered {status}"
        # Shorter than the body: the remaining bytes are not a valid request.
        status = _send_with_content_length(vault, ada, "10", body)
        assert status in {400, None}, status
    assert data(ada.create())


def _send_with_content_length(vault: Vault, creator: Creator, length: str, body: bytes) -> int | None:
    """Send the body under that Content-Length, and no more; return the service's status, None if it did not respond."""
    token = f"Bearer {vault.tokens.token(creator.did)}"
    headers = [("Authorization", token), ("Content-Type", "application/json"), ("Content-Length", length)]
    RECORDER.add(Exchange("POST", vault.url + RECORD, headers, body, creator.did, None))
    parts = urlsplit(vault.url)
    host, encrypted = parts.hostname or "", parts.scheme == "https"
    connection = (
        http.client.HTTPSConnection(host, parts.port, timeout=RESPONSE_SECONDS, context=vault.trust)
        if encrypted
        else http.client.HTTPConnection(host, parts.port, timeout=RESPONSE_SECONDS)
    )
    try:
        connection.putrequest("POST", parts.path + RECORD)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body)
        if not encrypted:  # TLS cannot close only the sending side
            with suppress(OSError):  # the target may have closed the connection already
                connection.sock.shutdown(socket.SHUT_WR)
        response = connection.getresponse()
        # A proxy may answer for itself when its client closes the connection; only the service's responses have an id.
        return response.status if response.headers["X-Correlation-Id"] else None
    except TimeoutError:
        if encrypted and length.isdecimal() and int(length) > len(body):
            return None  # a proxy in front of the service may wait for the announced bytes
        raise AssertionError(f"no response to Content-Length: {length} within {RESPONSE_SECONDS} s") from None
    except (ConnectionError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def record_of(size: int, shape: str) -> dict[str, Any]:
    """Return a profile whose JSON has about `size` bytes."""
    frame = len('{"displayName":"Ada","x":""}')
    if shape == "text":
        return {"displayName": "Ada", "x": "x" * (size - frame)}
    return {"displayName": "Ada", "x": ["x" * 97] * ((size - frame) // 100)}


@judges("LIMIT-008")
@for_all(cost=3, near=st.integers(1, 4000), shape=st.sampled_from(["text", "list"]))
def test_a_record_over_its_limit_is_refused(ada: Creator, near: int, shape: str):
    response = ada.create(record=record_of(RECORD_MAX_BYTES + 4000 + near, shape))

    expect_error(response, response.status_code if response.status_code in {400, 413} else 400)


@judges("LIMIT-009")
@for_all(cost=3, near=st.integers(1, 4000), shape=st.sampled_from(["text", "list"]))
def test_a_record_within_its_limit_is_accepted(plan: Plan, ada: Creator, near: int, shape: str):
    if plan.max_body_bytes < RECORD_MAX_BYTES:
        not_judged(f"a body limit of {plan.max_body_bytes} bytes leaves no room for a record of 256 KiB")
    ada.created(record=record_of(RECORD_MAX_BYTES - 4000 - near, shape))


@judges("LIMIT-010")
@for_all(
    cost=2,
    levels=st.integers(NESTING_MAX + NESTING_SLACK, 200) | st.sampled_from([5000, 100_000]),
    opening=st.sampled_from(["[", '{"a":']),
)
def test_nesting_beyond_the_limit_is_refused(vault: Vault, ada: Creator, levels: int, opening: str):
    closing = "]" if opening == "[" else "}"
    frame = json.dumps(ada.body(record={"displayName": "Ada", "x": "HERE"}))
    content = frame.replace('"HERE"', opening * levels + "1" + closing * levels).encode()

    response = vault.send("POST", RECORD, by=ada, headers=JSON, content=content)

    expect_error(response, response.status_code if response.status_code in {400, 413} else 400)


@judges("LIMIT-011")
@for_all(cost=2, levels=st.integers(1, NESTING_MAX - NESTING_SLACK), opening=st.sampled_from(["[", '{"a":']))
def test_nesting_within_the_limit_is_accepted(vault: Vault, ada: Creator, levels: int, opening: str):
    value: Any = 1
    for _ in range(levels):
        value = [value] if opening == "[" else {"a": value}

    ada.created(record={"displayName": "Ada", "x": value})


@judges("LIMIT-005")
@newcomer("ada")
def test_requests_beyond_the_rate_limit_are_refused(vault: Vault, plan: Plan, ada: Creator, bob: Creator):
    calls = {
        "writes": lambda: _send_without_retry(ada, "POST", RECORD),
        "reads": lambda: _send_without_retry(ada, "GET", LIST),
    }
    limits = {name: budget_of(call())[0] for name, call in calls.items()}
    affordable = {name: limit for name, limit in limits.items() if limit <= SPENT_MAX[plan.profile]}
    if not affordable:
        not_judged(
            f"the rate limits of the target, {limits}, exceed the {SPENT_MAX[plan.profile]} requests of this profile"
        )
    name = min(affordable, key=lambda it: affordable[it])

    # The window may end meanwhile, but more than twice the budget cannot fit into two adjacent windows.
    accepted: Counter[str] = Counter()  # by the end of their window
    for _ in range(2 * limits[name] // 10 + 2):
        responses = concurrently(lambda _: calls[name](), range(10))
        spent = [response for response in responses if response.status_code == 429]
        if spent:
            break
        accepted.update(budget_of(response)[2] for response in responses)
    else:
        most = max(accepted.values())
        assert most <= limits[name], f"{most} {name} were accepted in one window of {limits[name]}"
        raise Undecided(f"no window was short of its limit: {2 * limits[name] + 20} {name} took longer than one window")
    expect_error(spent[0], 429, "CDV_RATE_LIMIT")
    assert spent[0].headers.get("retry-after", "").isdecimal(), f"Retry-After: {spent[0].headers.get('retry-after')}"
    assert int(spent[0].headers["retry-after"]) >= 1
    assert _send_without_retry(bob, "GET", LIST).status_code == 200, "another subject is refused as well"


def _send_without_retry(creator: Creator, method: str, path: str) -> httpx.Response:
    body = creator.body() if method == "POST" else None
    params = None if method == "POST" else {"did": creator.did}
    return creator.vault.send(method, path, by=creator, body=body, params=params, retry=False)
