"""The suite accepts every behaviour that the contract leaves open."""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conformance.http import fixtures, test_limits, test_operations
from conformance.http.catalogue import INDEX, Catalogue
from conformance.http.openapi import undescribed
from conformance.http.plan import Plan
from conformance.http.requirements import Undecided
from conformance.http.test_events import assert_enveloped
from conformance.http.tokens import Key, KeyTokens
from conformance.http.vault import Vault
from tests.conformance.defects_model import ROOT
from tests.conformance.judging import judge
from tests.conformance.stub import Answer, refusal, serving
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
def test_an_events_version_must_be_a_number_or_non_empty_text(version: Any):
    with pytest.raises(AssertionError):
        assert_enveloped(enveloped(version))


def enveloped(version: Any) -> dict[str, Any]:
    members = {"type": "x", "correlationId": "c", "payload": {}, "occurredAt": "2026-11-24T02:53:29.331656Z"}
    return {**members, "version": version}


def test_with_a_small_body_limit_the_requirement_for_large_records_is_not_judged(tmp_path: Path):
    vault = RunningVault(tmp_path / "vault", CDV_MAX_BODY_BYTES="131072")
    try:
        key = ("--issuer-key", str(vault.data_dir / "issuer-key.json"), "--max-body-bytes", "131072")
        only = [word for prefix in ("LIMIT-00", "LIMIT-012", "LIST-007") for word in ("--only", prefix)]
        judgement = judge(tmp_path, vault.base, *key, *only)
    finally:
        vault.stop()

    assert judgement.ids("failed") == set(), judgement.text
    assert {"LIMIT-006", "LIMIT-008", "LIMIT-012", "LIST-007"} <= judgement.ids("passed")
    assert "LIMIT-009" in judgement.ids("not judged")


def test_an_unused_catalogue_reports_which_documents_were_requested():
    catalogue = Catalogue()
    assert "requested only nothing" in catalogue.not_used_reason()
    assert catalogue.respond(INDEX)[0] == 200
    assert f"requested only {INDEX}" in catalogue.not_used_reason()
    for path in catalogue.documents:
        catalogue.respond(path)
    assert not catalogue.not_used_reason()
    assert catalogue.respond("/schemas/a.b.c/1.0.0")[0] == 404
    assert "/schemas/a.b.c/1.0.0" in catalogue.not_used_reason()


@pytest.mark.parametrize(("requested", "verdict"), [("nothing", "undecided"), ("all", "failed")])
def test_only_a_catalogue_that_was_fetched_must_come_into_force(
    monkeypatch: pytest.MonkeyPatch, requested: str, verdict: str
):
    monkeypatch.setattr(fixtures, "IN_FORCE_SECONDS", 0.0)
    served = Catalogue()
    for path in served.documents if requested == "all" else ():
        served.respond(path)
    tokens = KeyTokens(Key.new(), issuer="x", audience="cdv")
    with serving(lambda *_: refusal(400, "CDV_VALIDATION")) as stub:
        plan = Plan(stub.url, tokens, catalogue=served)
        target = Vault(stub.url, tokens, 0, plan.trust)
        expected = Undecided if verdict == "undecided" else AssertionError
        with pytest.raises(expected, match=r"only nothing|not in force"):
            inspect.unwrap(fixtures.catalogue)(plan, target)
        target.close()


class Counting:
    """A vault that accepts every record but an empty one and counts requests. Each create advances its clock."""

    def __init__(self, shown: Callable[[Counting], str]) -> None:
        self.requests: Counter[str] = Counter()
        self._now = 0.0
        self._shown = shown

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        if path == "/metrics":
            self.requests["scrapes"] += 1
            return 200, {"X-Correlation-Id": "c-1", "Content-Type": "text/plain"}, self._shown(self).encode()
        self.requests["creates"] += 1
        self._now += 0.01
        if b'"record":{}' in body.replace(b" ", b""):
            return refusal(400, "CDV_SCHEMA_REJECT")
        return 200, {"X-Correlation-Id": "c-1"}, {"data": {}}

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


def counter(name: str, value: float) -> str:
    return f"# TYPE {name} counter\n{name}_total {value}\n"


METRICS: dict[str, tuple[str, Callable[[Counting], str]]] = {
    "creates": ("passed", lambda vault: counter("creates", vault.requests["creates"])),
    "all requests together": ("passed", lambda vault: counter("requests", vault.requests.total())),
    "scrapes of metrics alone": ("failed", lambda vault: counter("requests", vault.requests["scrapes"])),
    "seconds": ("failed", lambda vault: counter("ticks", vault.monotonic() * 1000)),
    "Go runtime counters": ("failed", lambda vault: counter("go_memstats_mallocs", vault.requests["creates"])),
}


@pytest.mark.parametrize("counted", METRICS)
def test_a_counter_of_requests_is_recognised_however_it_aggregates_them(monkeypatch: pytest.MonkeyPatch, counted: str):
    verdict, shown = METRICS[counted]
    vault = Counting(shown)
    monkeypatch.setattr(test_operations, "time", vault)
    with target_answering(vault.answer) as target:
        if verdict == "passed":
            test_operations.test_metrics_grow_with_the_requests(target, target.creator())
        else:
            with pytest.raises(AssertionError, match="no counter in /metrics grew"):
                test_operations.test_metrics_grow_with_the_requests(target, target.creator())


@contextmanager
def target_answering(answer: Callable[[str, str, bytes], Answer]) -> Iterator[Vault]:
    """Serve these responses and yield a Vault, to be passed to one test of the suite."""
    tokens = KeyTokens(Key.new(), issuer="x", audience="cdv")
    with serving(answer) as stub:
        target = Vault(stub.url, tokens, 0, Plan(stub.url, tokens).trust)
        yield target
        target.close()


def parameters_by_reference(document: dict[str, Any]) -> None:
    """Move the parameters of operations to their path items, as references."""
    kept = document["components"]["parameters"] = {}
    for number, item in enumerate(document["paths"].values()):
        parameters = [each for operation in item.values() for each in operation.pop("parameters", [])]
        for position, parameter in enumerate(parameters):
            kept[f"{number}/{position}"] = parameter
        item["parameters"] = [{"$ref": f"#/components/parameters/{number}~1{it}"} for it in range(len(parameters))]


def error_responses_by_range(document: dict[str, Any]) -> None:
    """Describe the error responses of each operation by `default`, or by the ranges 4XX and 5xx."""
    for path, item in document["paths"].items():
        for operation in item.values():
            answers = {status: each for status, each in operation["responses"].items() if status < "400"}
            errors: dict[str, Any] = {"default": {}} if path.startswith("/v1/repo") else {"4XX": {}, "5xx": {}}
            operation["responses"] = {**answers, **errors}


def paths_below_a_server(document: dict[str, Any]) -> None:
    document["servers"] = [{"url": "https://vault.example/v1"}]
    paths = document["paths"]
    for path in [each for each in paths if each.startswith("/v1/")]:
        paths[path.removeprefix("/v1").replace("assetId", "id")] = paths.pop(path)
    for path, item in paths.items():
        if path in {"/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"}:
            item["servers"] = [{"url": "https://vault.example"}]


def content_streamed(document: dict[str, Any]) -> None:
    """Describe content as a 200 instead of a redirect, and leave out everything optional."""
    answers = document["paths"]["/v1/media/{assetId}/content"]["get"]["responses"]
    answers["200"] = answers.pop("307")
    for item in document["paths"].values():
        for operation in item.values():
            for status in ("413", "415", "429", "500"):
                operation["responses"].pop(status, None)
            operation["parameters"] = [each for each in operation["parameters"] if each["name"] != "X-Correlation-Id"]


@pytest.mark.parametrize(
    "written", [parameters_by_reference, error_responses_by_range, paths_below_a_server, content_streamed]
)
def test_equivalent_openapi_documents_are_accepted(written: Callable[[dict[str, Any]], None]):
    document = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
    written(document)

    assert undescribed(document) == []


def test_omissions_of_an_openapi_document_are_named():
    document = json.loads((ROOT / "docs/openapi.json").read_text(encoding="utf-8"))
    del document["paths"]["/docs"]
    del document["paths"]["/v1/repo/record"]["get"]["responses"]["304"]
    del document["paths"]["/v1/media/{assetId}/meta"]["get"]["parameters"]

    assert undescribed(document) == [
        "GET /v1/repo/record: response 304",
        "GET /v1/media/{}/meta: parameter path",
        "GET /docs",
    ]


def test_reads_that_require_a_token_need_no_rate_limit_headers_without_one():
    created = 200, {"X-Correlation-Id": "c-1"}, {"data": {"uri": "at://did:example:a/com.example.b/c"}}

    def answer(method: str, path: str, body: bytes) -> Answer:
        return created if method == "POST" else refusal(401, "CDV_AUTHN", WWW_Authenticate="Bearer")

    with target_answering(answer) as target, pytest.raises(pytest.skip.Exception, match="need not be counted"):
        test_limits.test_responses_without_a_token_show_the_rate_limit(target, target.creator())
