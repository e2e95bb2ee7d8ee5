"""A short run of `make schemathesis`."""

from __future__ import annotations

import pytest

from tests.load.schemathesis_run import run


@pytest.mark.timeout(600)
def test_the_service_conforms_to_its_openapi_document(capfd: pytest.CaptureFixture[str]) -> None:
    # The same cases at every run, so that a new finding comes from a change; `make schemathesis` varies them.
    code = run(5, 400, "--generation-deterministic")
    assert code == 0, capfd.readouterr().out
