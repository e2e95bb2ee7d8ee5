"""How long a run waits for its target, and which requests it retries."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from conformance.http import vault
from conformance.http.requirements import Undecided
from conformance.http.tokens import Key, KeyTokens
from conformance.http.vault import TIMEOUTS_MAX, Vault, WaitBudget
from tests.conformance.stub import Answer, refusal, serving


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time as the code under test sees it; change it to advance."""
    now = [100.0]
    monkeypatch.setattr("conformance.http.vault.time.monotonic", lambda: now[0])
    return now


def is_responsive(budget: WaitBudget, endpoint: str) -> bool:
    try:
        budget.require_responsive(endpoint)
    except Undecided:
        return False
    return True


def test_concurrent_waits_count_once(clock: list[float]):
    budget = WaitBudget(60)

    assert all(budget.spend(40) for _ in range(24))
    assert budget.waited_seconds == 40
    clock[0] += 30
    assert budget.spend(20)  # ten of them overlap with the current wait
    assert budget.waited_seconds == 50
    assert not budget.spend(31)
    clock[0] += 20
    assert budget.spend(10)
    assert not budget.spend(11)


def test_timeouts_of_concurrent_requests_count_once(clock: list[float]):
    budget = WaitBudget(60)
    for _ in range(TIMEOUTS_MAX - 1):
        began = clock[0]
        clock[0] += 35
        for _ in range(24):
            budget.timed_out("POST record", began)

    assert is_responsive(budget, "POST record")
    began = clock[0]
    clock[0] += 35
    budget.timed_out("POST record", began)
    assert not is_responsive(budget, "POST record")
    assert not is_responsive(budget, "GET record")


def test_a_response_resets_the_count_of_timeouts(clock: list[float]):
    budget = WaitBudget(60)
    for _ in range(3 * TIMEOUTS_MAX):
        assert is_responsive(budget, "POST record")
        began = clock[0]
        clock[0] += 35
        budget.timed_out("POST record", began)
        budget.responded("POST record")


def test_an_endpoint_that_never_responds_is_abandoned_even_if_others_respond(clock: list[float]):
    budget = WaitBudget(60)
    for _ in range(TIMEOUTS_MAX):
        assert is_responsive(budget, "POST record")
        began = clock[0]
        clock[0] += 35
        budget.timed_out("POST record", began)
        budget.responded("GET record")

    assert is_responsive(budget, "GET record")
    assert not is_responsive(budget, "POST record")


@pytest.mark.parametrize(
    ("status", "sent", "times"),
    [
        (503, {"body": {"did": "a"}}, 1),
        (502, {"content": b'{"did": "a"}'}, 1),
        (503, {"body": {"did": "a", "idempotencyKey": "k"}}, 2),
        (504, {"content": b'{"did": "a", "idempotencyKey" : "k"}'}, 2),
        (503, {"body": {"did": "a"}, "headers": {"idempotency-key": "k"}}, 2),
        (429, {"body": {"did": "a"}}, 2),
    ],
)
def test_a_write_that_may_have_happened_is_retried_only_with_an_idempotency_key(
    status: int, sent: dict[str, Any], times: int
):
    calls: list[str] = []

    def answer(method: str, *_: object) -> Answer:
        calls.append(method)
        return (
            refusal(status, "CDV_UNAVAILABLE", Retry_After="0") if len(calls) == 1 else refusal(400, "CDV_VALIDATION")
        )

    tokens = KeyTokens(Key.new(), issuer="x", audience="cdv")
    with serving(answer) as stub:
        target = Vault(stub.url, tokens, 60, ssl.create_default_context())
        if times == 1:
            with pytest.raises(Undecided, match=f"{status}.*may have happened"):
                target.send("POST", vault.RECORD, **sent)
        else:
            assert target.send("POST", vault.RECORD, **sent).status_code == 400
        target.close()

    assert len(calls) == times
