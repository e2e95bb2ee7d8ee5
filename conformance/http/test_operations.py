"""Tests of correlation ids, liveness, readiness, metrics and the OpenAPI document."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

from hypothesis import strategies as st

from conformance.http.laws import CORRELATION_ID, STATUS_OF_CODE
from conformance.http.openapi import undescribed
from conformance.http.profiles import for_all
from conformance.http.requirements import judges
from conformance.http.vault import REPLICAS_REACHED, Creator, Vault, concurrently, expect_error, json_of

ROUNDS_COUNTED = 12  # each of six requests, which up to eight replicas may share
# Prefixes of metrics that client libraries of several languages export about the process.
PROCESS_METRICS = ("process_", "python_", "go_", "jvm_", "nodejs_")
# The contract says what readiness reports, but not in which words.
STATES = {"up", "down", "ok", "pass", "warn", "fail", "failed", "error", "healthy", "unhealthy", "ready", "unready"}
STATES |= {"available", "unavailable", "degraded", "unknown"}

_GOOD_IDS = st.from_regex(CORRELATION_ID, fullmatch=True) | st.sampled_from(["x" * 128, ".", "a:b_c-d.E9"])
_BAD_IDS = st.sampled_from(["x" * 129, "a b", "a/b", "<script>", "a,b", '"a"', "%00"]) | st.text(
    "abc/?#[]@!$&'()*+;=", min_size=1
).filter(lambda it: not CORRELATION_ID.fullmatch(it))


@judges("OPS-002")
@for_all(own=_GOOD_IDS)
def test_a_good_correlation_id_is_echoed(vault: Vault, ada: Creator, own: str):
    for response in (
        ada.create({"X-Correlation-Id": own}),
        vault.get("at://nobody", X_Correlation_Id=own),
        vault.send("GET", "/v1/nowhere", headers={"X-Correlation-Id": own}),
    ):
        assert response.headers.get("x-correlation-id") == own


@judges("OPS-003")
@for_all(own=_BAD_IDS)
def test_a_bad_correlation_id_is_replaced(vault: Vault, own: str):
    sent = {"X-Correlation-Id": own}
    given = [vault.send("GET", "/v1/nowhere", headers=sent).headers.get("x-correlation-id", "") for _ in range(2)]

    assert own not in given
    assert given[0] != given[1], "two requests were given the same id"
    assert all(CORRELATION_ID.fullmatch(it) for it in given)


@judges("OPS-003")
def test_each_request_without_an_id_is_given_its_own(vault: Vault):
    given = {vault.send("GET", "/v1/nowhere").headers.get("x-correlation-id") for _ in range(5)}

    assert len(given) == 5


@judges("OPS-004")
def test_liveness_answers_200(vault: Vault):
    assert vault.send("GET", "/healthz").status_code == 200


@judges("OPS-005")
def test_readiness_names_dependencies(vault: Vault):
    response = vault.send("GET", "/readyz", retry=False)

    assert response.status_code in {200, 503}, response.status_code
    listed = [*_dependencies(json_of(response))]
    assert listed, f"no dependency with its state in the response: {response.text[:300]!r}"


@judges("OPS-006")
def test_metrics_grow_with_the_requests(vault: Vault, ada: Creator):
    shown = vault.send("GET", "/metrics")
    assert shown.status_code == 200
    assert shown.headers.get("content-type", "").startswith(("text/plain", "application/openmetrics-text"))
    for line in shown.text.splitlines():
        assert not line or line.startswith("#") or re.fullmatch(r"[a-zA-Z_:][\w:]*(\{.*\})? \S+( \S+)?", line), line

    for rounds in (1, ROUNDS_COUNTED):
        earlier = later = largest_counts(vault)
        began = time.monotonic()
        scraping_seconds = 0.0
        for _ in range(rounds):
            for _ in range(3):
                ada.created()
                expect_error(ada.create(record={}), 400)
            scraped = time.monotonic()
            later = largest_counts(vault)
            scraping_seconds += time.monotonic() - scraped
        # Control: the same time and as many scrapes, but no other requests. What grows as much does not count requests.
        time.sleep(time.monotonic() - began - scraping_seconds)
        control = later
        for _ in range(rounds):
            control = largest_counts(vault)
        for name, value in later.items():
            if _grew_with_requests(value - earlier.get(name, 0), control.get(name, value) - value, rounds):
                return
    raise AssertionError("no counter in /metrics grew with the requests")


@judges("OPS-007")
def test_the_openapi_document_describes_every_operation_and_code(vault: Vault):
    response = vault.send("GET", "/openapi.json")

    assert response.status_code == 200
    document = json_of(response)
    assert isinstance(document, dict), "the document is not a JSON object"
    assert str(document.get("openapi", "")).startswith("3."), document.get("openapi")
    missing = undescribed(document)
    assert not missing, f"the document does not describe: {'; '.join(missing)}"
    text = json.dumps(document)
    assert not [code for code in STATUS_OF_CODE if code not in text]


@judges("OPS-008")
def test_the_reference_page_needs_no_other_host(vault: Vault):
    response = vault.send("GET", "/docs")
    if response.is_redirect:
        response = vault.send("GET", str(response.url.join(response.headers["location"])))

    assert response.status_code == 200
    assert response.headers.get("content-type", "").startswith("text/html")
    loaded = re.findall(
        r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=\s*[\"']?((?:https?:)?//[^\"'\s>]+)", response.text
    )
    foreign = [url for url in loaded if not url.startswith(vault.url)]
    assert not foreign, foreign
    assert "@import" not in response.text


@judges("OPS-009")
@for_all(
    cost=2,
    sent=st.sampled_from(
        ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-0-0-00", "", "ff" * 40, "a b"]
    ),
)
def test_a_trace_context_changes_nothing(ada: Creator, sent: str):
    assert ada.create({"traceparent": sent}).status_code == 200
    assert ada.create({"traceparent": sent}, record={}).status_code == 400


def largest_counts(vault: Vault) -> dict[str, float]:
    """Return the largest value of each series among several scrapes: each replica behind the address has its own."""
    responses = concurrently(lambda _: vault.send("GET", "/metrics"), range(REPLICAS_REACHED))
    most: dict[str, float] = {}
    for response in responses:
        for series, value in _counts(response.text).items():
            most[series] = max(value, most.get(series, value))
    return most


def _counts(exposition: str) -> dict[str, float]:
    """Return the value of each series of the service's own counters, and of the counts of histograms and summaries.

    Buckets are left out: which of them grows depends on durations.
    """
    counted = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (counter|histogram|summary)$", exposition, re.MULTILINE):
        if not name.startswith(PROCESS_METRICS):
            counted |= {name, f"{name}_total"} if kind == "counter" else {f"{name}_count"}
    series = re.findall(r"^(([a-zA-Z_:][\w:]*)(?:\{.*\})?) (\S+)", exposition, re.MULTILINE)
    return {labelled: float(value) for labelled, name, value in series if name in counted}


def _grew_with_requests(growth: float, control_growth: float, rounds: int) -> bool:
    """Return whether a series grew with the requests, of which each round had three of each of two kinds.

    A series that counts all requests counts the scrapes as well: eight per round, besides the six requests. How many
    of the eight reach the replica whose value is shown is random, which evens out only over many rounds.
    """
    if control_growth <= 0:
        return growth >= 3
    return rounds == ROUNDS_COUNTED and growth - control_growth > control_growth / 4


def _dependencies(value: object) -> Iterator[dict[str, object]]:
    """Yield objects that look like a dependency's state: booleans for up and critical, or a word for the first."""
    if isinstance(value, dict):
        truths = [it for it in value.values() if isinstance(it, bool)]
        words = [it for it in value.values() if isinstance(it, str) and it.lower() in STATES]
        if truths and len(truths) + len(words) >= 2:
            yield value
        for member in value.values():
            yield from _dependencies(member)
    elif isinstance(value, list):
        for member in value:
            yield from _dependencies(member)
