"""How long a run waits for its target, and what it asks again."""

from __future__ import annotations

import pytest

from conformance.http import vault
from conformance.http.requirements import Undecided
from conformance.http.vault import SLOW_MAX, Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The only time there is, to be moved."""
    now = [100.0]
    monkeypatch.setattr(vault.time, "monotonic", lambda: now[0])
    return now


def asks(patience: Patience, endpoint: str) -> bool:
    try:
        patience.ask(endpoint)
    except Undecided as slow:
        assert "slow: " in str(slow)
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
