"""What the contract leaves open fails nobody."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.http.test_events import assert_enveloped
from tests.conformance.judging import judge
from tests.conformance.stub import refusal, serving
from tests.http.running import RunningVault

TOKENS = ("--token-command", f"{sys.executable} -c \"print('e30.e30.e30')\"")


@pytest.mark.parametrize(("status", "verdict"), [(403, "passed"), (401, "failed")])
def test_a_preflight_of_an_unlisted_origin_may_be_denied(tmp_path: Path, status: int, verdict: str):
    with serving(lambda *_: refusal(status, "CDV_AUTHZ", WWW_Authenticate="Bearer")) as stub:
        judgement = judge(tmp_path, stub.url, *TOKENS, "--only", "CORS-002")

    assert judgement.verdict("CORS-002")["verdict"] == verdict, judgement.text


@pytest.mark.parametrize("version", ["1", 1, 1.0])
def test_an_events_version_may_be_a_number(version: Any):
    assert_enveloped(enveloped(version))


@pytest.mark.parametrize("version", [None, "", True, {}])
def test_an_events_version_says_something(version: Any):
    with pytest.raises(AssertionError):
        assert_enveloped(enveloped(version))


def enveloped(version: Any) -> dict[str, Any]:
    members = {"type": "x", "correlationId": "c", "payload": {}, "occurredAt": "2026-11-24T02:53:29.331656Z"}
    return {**members, "version": version}


def test_a_small_body_limit_leaves_no_room_for_large_records(tmp_path: Path):
    vault = RunningVault(tmp_path / "vault", CDV_MAX_BODY_BYTES="131072")
    try:
        key = ("--issuer-key", str(vault.data_dir / "issuer-key.json"), "--max-body-bytes", "131072")
        judgement = judge(tmp_path, vault.base, *key, "--only", "LIMIT-00", "--only", "LIST-007")
    finally:
        vault.stop()

    assert judgement.ids("failed") == set(), judgement.text
    assert {"LIMIT-006", "LIMIT-008", "LIST-007"} <= judgement.ids("passed")
    assert "LIMIT-009" in judgement.ids("not judged")
