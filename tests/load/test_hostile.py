"""A short run of `make hostile`, with the same requests every time."""

from __future__ import annotations

import pytest

from tests.load.hostile import attack


def test_hostile_requests_do_no_harm(capfd: pytest.CaptureFixture[str]) -> None:
    assert attack(2000, seed=1), capfd.readouterr().out
