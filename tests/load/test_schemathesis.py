"""A small budget of what `make schemathesis` does with a large one."""

from __future__ import annotations

import pytest

from tests.load.schemathesis_run import run


@pytest.mark.timeout(600)
def test_the_service_is_what_its_document_says(capfd: pytest.CaptureFixture[str]) -> None:
    # The same cases at every run: a finding here belongs to a change, and surprises to `make schemathesis`.
    code = run(5, 400, "--generation-deterministic")
    assert code == 0, capfd.readouterr().out
