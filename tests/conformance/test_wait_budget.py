"""How long a run waits for its target, and what it asks again."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from conformance.http import vault
from conformance.http.requirements import Undecided
from conformance.http.tokens import Key, KeyTokens
from conformance.http.vault import SLOW_MAX, Patience, Vault
from tests.conformance.stub import Answer, refusal, serving


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The only time there is, to be moved."""
    now = [100.0]
    monkeypatch.setattr("conformance.http.vault.time.monotonic", lambda: now[0])
    return now


def asks(patience: Patience, endpoint: str) -> bool:
    try:
        patience.ask(endpoint)
    except Undecided:
        return False
    return True


def test_who_waits_together_waits_once(clock: list[float]):
    patience = Patience(60)

    assert all(patience.spend(40) for _ in range(24))
    assert patience.waited_seconds == 40
    clock[0] += 30
    assert patience.spend(20)  # ten of which somebody waits already
    assert patience.waited_seconds == 50
    assert not patience.spend(31)
    clock[0] += 20
    assert patience.spend(10)
    assert not patience.spend(11)


def test_requests_under_way_together_are_slow_once(clock: list[float]):
    patience = Patience(60)
    for _ in range(SLOW_MAX - 1):
        began = clock[0]
        clock[0] += 35
        for _ in range(24):
            patience.gave_up("POST record", began)

    assert asks(patience, "POST record")
    began = clock[0]
    clock[0] += 35
    patience.gave_up("POST record", began)
    assert not asks(patience, "POST record")
    assert not asks(patience, "GET record")


def test_an_answer_begins_the_count_anew(clock: list[float]):
    patience = Patience(60)
    for _ in range(3 * SLOW_MAX):
        assert asks(patience, "POST record")
        began = clock[0]
        clock[0] += 35
        patience.gave_up("POST record", began)
        patience.answered("POST record")


def test_an_endpoint_that_never_answers_is_given_up_though_others_do(clock: list[float]):
    patience = Patience(60)
    for _ in range(SLOW_MAX):
        assert asks(patience, "POST record")
        began = clock[0]
        clock[0] += 35
        patience.gave_up("POST record", began)
        patience.answered("GET record")

    assert asks(patience, "GET record")
    assert not asks(patience, "POST record")


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
def test_a_write_that_may_have_happened_is_not_sent_again(status: int, sent: dict[str, Any], times: int):
    asked: list[str] = []

    def answer(method: str, *_: object) -> Answer:
        asked.append(method)
        return (
            refusal(status, "CDV_UNAVAILABLE", Retry_After="0") if len(asked) == 1 else refusal(400, "CDV_VALIDATION")
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

    assert len(asked) == times
