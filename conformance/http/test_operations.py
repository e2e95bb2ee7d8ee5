"""Correlation ids, liveness, readiness, metrics, the API's own description."""

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
from conformance.http.vault import REPLICAS_REACHED, Creator, Vault, at_once, json_of, refused

ROUNDS_COUNTED = 12  # of three requests of each kind: eight replicas may share them
# What the client libraries of several languages count by themselves.
RUNTIMES = ("process_", "python_", "go_", "jvm_", "nodejs_")
# The contract says what readiness tells, and not in which words.
STATES = {"up", "down", "ok", "pass", "warn", "fail", "failed", "error", "healthy", "unhealthy", "ready", "unready"}
STATES |= {"available", "unavailable", "degraded", "unknown"}

_GOOD_IDS = st.from_regex(CORRELATION_ID, fullmatch=True) | st.sampled_from(["x" * 128, ".", "a:b_c-d.E9"])
_BAD_IDS = st.sampled_from(["x" * 129, "a b", "a/b", "<script>", "a,b", '"a"', "%00"]) | st.text(
    "abc/?#[]@!$&'()*+;=", min_size=1
).filter(lambda it: not CORRELATION_ID.fullmatch(it))


@judges("OPS-002")
@for_all(own=_GOOD_IDS)
def test_a_good_correlation_id_is_echoed(vault: Vault, ada: Creator, own: str):
    for answer in (
        ada.create({"X-Correlation-Id": own}),
        vault.get("at://nobody", X_Correlation_Id=own),
        vault.send("GET", "/v1/nowhere", headers={"X-Correlation-Id": own}),
    ):
        assert answer.headers.get("x-correlation-id") == own


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
def test_it_says_that_it_is_alive(vault: Vault):
    assert vault.send("GET", "/healthz").status_code == 200


@judges("OPS-005")
def test_readiness_names_dependencies(vault: Vault):
    answer = vault.send("GET", "/readyz", patient=False)

    assert answer.status_code in {200, 503}, answer.status_code
    listed = [*_dependencies(json_of(answer))]
    assert listed, f"no dependency with its state in {answer.text[:300]!r}"


@judges("OPS-006")
def test_metrics_grow_with_the_requests(vault: Vault, ada: Creator):
    shown = vault.send("GET", "/metrics")
    assert shown.status_code == 200
    assert shown.headers.get("content-type", "").startswith(("text/plain", "application/openmetrics-text"))
    for line in shown.text.splitlines():
        assert not line or line.startswith("#") or re.fullmatch(r"[a-zA-Z_:][\w:]*(\{.*\})? \S+( \S+)?", line), line

    for rounds in (1, ROUNDS_COUNTED):
        earlier = later = most_counted(vault)
        began = time.monotonic()
        scraping_seconds = 0.0
        for _ in range(rounds):
            for _ in range(3):
                ada.created()
                refused(ada.create(record={}), 400)
            scraped = time.monotonic()
            later = most_counted(vault)
            scraping_seconds += time.monotonic() - scraped
        # Then for as long, and as many looks at it, but no request: what grows all the same says nothing of requests.
        time.sleep(time.monotonic() - began - scraping_seconds)
        control = later
        for _ in range(rounds):
            control = most_counted(vault)
        for name, value in later.items():
            if _counts_requests(value - earlier.get(name, 0), control.get(name, value) - value, rounds):
                return
    raise AssertionError("no counter of the service grew by the requests")


@judges("OPS-007")
def test_the_openapi_document_describes_every_operation_and_code(vault: Vault):
    answer = vault.send("GET", "/openapi.json")

    assert answer.status_code == 200
    document = json_of(answer)
    assert isinstance(document, dict), "no JSON object"
    assert str(document.get("openapi", "")).startswith("3."), document.get("openapi")
    missing = undescribed(document)
    assert not missing, f"not described: {'; '.join(missing)}"
    text = json.dumps(document)
    assert not [code for code in STATUS_OF_CODE if code not in text]


@judges("OPS-008")
def test_the_reference_page_needs_no_other_host(vault: Vault):
    answer = vault.send("GET", "/docs")
    if answer.is_redirect:
        answer = vault.send("GET", str(answer.url.join(answer.headers["location"])))

    assert answer.status_code == 200
    assert answer.headers.get("content-type", "").startswith("text/html")
    loaded = re.findall(
        r"<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=\s*[\"']?((?:https?:)?//[^\"'\s>]+)", answer.text
    )
    foreign = [url for url in loaded if not url.startswith(vault.url)]
    assert not foreign, foreign
    assert "@import" not in answer.text


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


def most_counted(vault: Vault) -> dict[str, float]:
    """Return the largest value of each series: each of several replicas behind the address tells of itself only."""
    answers = at_once(lambda _: vault.send("GET", "/metrics"), range(REPLICAS_REACHED))
    most: dict[str, float] = {}
    for answer in answers:
        for series, value in _counts(answer.text).items():
            most[series] = max(value, most.get(series, value))
    return most


def _counts(exposition: str) -> dict[str, float]:
    """Return what the service itself has counted: the value of each such series.

    Without the buckets of a histogram: they grow by how long things took.
    """
    counted = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (counter|histogram|summary)$", exposition, re.MULTILINE):
        if not name.startswith(RUNTIMES):
            counted |= {name, f"{name}_total"} if kind == "counter" else {f"{name}_count"}
    series = re.findall(r"^(([a-zA-Z_:][\w:]*)(?:\{.*\})?) (\S+)", exposition, re.MULTILINE)
    return {labelled: float(value) for labelled, name, value in series if name in counted}


def _counts_requests(grown: float, grown_alone: float, rounds: int) -> bool:
    """Tell whether a series grew by requests, of which there were three of each kind in each round.

    One that counts all requests together counts the looks at it as well, eight to the six of a round. How many of the
    eight it shows is chance: that evens out over many rounds only.
    """
    if grown_alone <= 0:
        return grown >= 3
    return rounds == ROUNDS_COUNTED and grown - grown_alone > grown_alone / 4


def _dependencies(value: object) -> Iterator[dict[str, object]]:
    """Yield whatever looks like a dependency's state: truth values for up and critical, or a word for the first."""
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
