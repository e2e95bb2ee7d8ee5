"""What the contract leaves open fails nobody."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.http import fixtures
from conformance.http.catalogue import INDEX, Catalogue
from conformance.http.plan import Plan
from conformance.http.requirements import Undecided
from conformance.http.test_events import assert_enveloped
from conformance.http.tokens import Key, KeyTokens
from conformance.http.vault import Vault
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


def test_a_catalogue_that_a_target_has_no_use_for_says_what_was_asked():
    catalogue = Catalogue()
    assert "asked for nothing alone" in catalogue.unfit()
    assert catalogue.answer(INDEX)[0] == 200
    assert f"asked for {INDEX} alone" in catalogue.unfit()
    for path in catalogue.documents:
        catalogue.answer(path)
    assert not catalogue.unfit()
    assert catalogue.answer("/schemas/a.b.c/1.0.0")[0] == 404
    assert "/schemas/a.b.c/1.0.0" in catalogue.unfit()


@pytest.mark.parametrize(("asked", "verdict"), [("nothing", "undecided"), ("all", "failed")])
def test_only_a_catalogue_that_was_fetched_must_come_into_force(
    monkeypatch: pytest.MonkeyPatch, asked: str, verdict: str
):
    monkeypatch.setattr(fixtures, "IN_FORCE_SECONDS", 0.0)
    served = Catalogue()
    for path in served.documents if asked == "all" else ():
        served.answer(path)
    tokens = KeyTokens(Key.new(), issuer="x", audience="cdv")
    with serving(lambda *_: refusal(400, "CDV_VALIDATION")) as stub:
        plan = Plan(stub.url, tokens, catalogue=served)
        target = Vault(stub.url, tokens, 0, plan.trust)
        expected = Undecided if verdict == "undecided" else AssertionError
        with pytest.raises(expected, match=r"nothing alone|not in force"):
            inspect.unwrap(fixtures.catalogue)(plan, target)
        target.close()
