"""A small budget of what `make hostile` does with a large one: the same requests at every run."""

from __future__ import annotations

import pytest

from tests.load.hostile import attack


def test_hostile_requests_do_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    assert attack(2000, seed=1), capfd.readouterr().out
