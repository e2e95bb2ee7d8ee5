"""Tests of schema validation: with the bundled collections, and with a catalogue that the run serves."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from conformance.http import catalogue as published
from conformance.http.catalogue import BUNDLED, Catalogue
from conformance.http.fixtures import newcomer
from conformance.http.json_samples import JSON_VALUES, records_of, same_json
from conformance.http.plan import Plan
from conformance.http.profiles import for_all
from conformance.http.requirements import clause, judges, not_judged
from conformance.http.vault import LIST, Creator, Vault, data, expect_error

SUBJECT = "at://did:example:a/com.registryaccord.feed.post/01ARZ3NDEKTSV4RRFFQ69G5FAV"
# One valid record per collection; AUTHOR is replaced by the DID of the creator.
GOOD: dict[str, dict[str, Any]] = {
    "com.registryaccord.profile": {"displayName": "Ada", "bio": "counts"},
    "com.registryaccord.feed.post": {"text": "hello", "createdAt": "2026-11-24T02:53:29Z", "authorDid": "AUTHOR"},
    "com.registryaccord.graph.follow": {"subject": "did:example:a"},
    "com.registryaccord.feed.like": {"subject": SUBJECT},
    "com.registryaccord.feed.comment": {"text": "hello", "subject": SUBJECT},
    "com.registryaccord.feed.repost": {"subject": SUBJECT},
    "com.registryaccord.moderation.flag": {"subject": SUBJECT, "reason": "spam"},
    "com.registryaccord.media.asset": {"mimeType": "image/png", "size": 1, "checksum": "0" * 64},
}
REQUIRED = [(collection, name) for collection, schema in BUNDLED.items() for name in schema["required"]]
LENGTHS = [
    (collection, name, rule["maxLength"])
    for collection, schema in BUNDLED.items()
    for name, rule in schema["properties"].items()
    if "maxLength" in rule
]
TYPED = [(collection, name) for collection, record in GOOD.items() for name in record if name != "authorDid"]
FORMATS: list[tuple[str, str, Any]] = [
    *(
        ("com.registryaccord.graph.follow", "subject", it)
        for it in ("", "ada", "did:", "https://example.com", "did:example:a b")
    ),
    *(("com.registryaccord.feed.like", "subject", it) for it in ("", "no uri", "//host/path", "at//x")),
    *(
        ("com.registryaccord.feed.post", "createdAt", it)
        for it in ("", "yesterday", "2026-11-24", "2026-13-24T02:53:29Z", "2026-11-24T02:53:29")
    ),
    *(("com.registryaccord.media.asset", "checksum", it) for it in ("", "0" * 63, "0" * 65, "g" * 64)),
    *(("com.registryaccord.media.asset", "size", it) for it in (-1, 1.5, -0.5)),
]


def good(creator: Creator, collection: str, **changes: Any) -> dict[str, Any]:
    """Return a valid record with changes; a member given as ... is left out."""
    record = {name: creator.did if value == "AUTHOR" else value for name, value in GOOD[collection].items()}
    return {name: value for name, value in {**record, **changes}.items() if value is not ...}


def violations_of(error: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the violations in `details`: objects with a JSON pointer, a rule and a message, in a list of any name."""
    details = error.get("details")
    lists = [details] if isinstance(details, list) else [it for it in (details or {}).values() if isinstance(it, list)]
    assert lists, f"details contains no list of violations: {details}"
    assert all(isinstance(it, dict) for it in lists[0]), lists[0]
    return lists[0]


def pointer_of(violation: dict[str, Any]) -> str | None:
    """Return the violation's JSON pointer: empty for the whole record, or beginning with a slash; None if missing."""
    pointers = [it for name, it in violation.items() if isinstance(it, str) and (not it or it.startswith("/"))]
    return pointers[0] if pointers else None


@st.composite
def _valid(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    collection = draw(st.sampled_from([*BUNDLED]))
    return collection, draw(records_of(collection, "AUTHOR"))


@judges("SCHEMA-001")
@for_all(case=_valid())
def test_every_valid_record_is_accepted(ada: Creator, case: tuple[str, dict[str, Any]]):
    collection, record = case
    if "authorDid" in record:
        record = {**record, "authorDid": ada.did}

    found = data(ada.get(ada.created(collection=collection, record=record)["uri"]))

    assert same_json(found["value"], record)


@judges("SCHEMA-001")
def test_every_collection_accepts_a_minimal_record(ada: Creator):
    for collection in BUNDLED:
        ada.created(collection=collection, record=good(ada, collection))


@judges("SCHEMA-002")
@for_all(every=True, case=st.sampled_from(REQUIRED))
def test_a_missing_required_member_is_refused(ada: Creator, case: tuple[str, str]):
    collection, name = case

    expect_error(
        ada.create(collection=collection, record=good(ada, collection, **{name: ...})), 400, "CDV_SCHEMA_REJECT"
    )


@judges("SCHEMA-003")
@for_all(
    case=st.sampled_from(LENGTHS),
    character=st.sampled_from(["x", "\u00fc", "\u6f22", "\U0001f600"]),
    beyond=st.integers(1, 50),
)
def test_string_lengths_count_characters(ada: Creator, case: tuple[str, str, int], character: str, beyond: int):
    collection, name, limit = case

    ada.created(collection=collection, record=good(ada, collection, **{name: character * limit}))
    for length in (limit + 1, limit + beyond):
        response = ada.create(collection=collection, record=good(ada, collection, **{name: character * length}))
        expect_error(response, 400, "CDV_SCHEMA_REJECT")


@judges("SCHEMA-004")
@for_all(case=st.sampled_from(TYPED), value=JSON_VALUES)
def test_a_member_of_another_type_is_refused(ada: Creator, case: tuple[str, str], value: Any):
    collection, name = case
    number = name == "size"
    assume(isinstance(value, bool) or not isinstance(value, int | float if number else str))

    expect_error(
        ada.create(collection=collection, record=good(ada, collection, **{name: value})), 400, "CDV_SCHEMA_REJECT"
    )


@judges("SCHEMA-005")
@for_all(every=True, case=st.sampled_from(FORMATS))
def test_formats_are_enforced(ada: Creator, case: tuple[str, str, Any]):
    collection, name, value = case

    expect_error(
        ada.create(collection=collection, record=good(ada, collection, **{name: value})), 400, "CDV_SCHEMA_REJECT"
    )


@judges("SCHEMA-005")
def test_an_author_did_must_be_a_did(ada: Creator):
    post = "com.registryaccord.feed.post"
    # The value is neither a DID nor the subject's DID: either error is right.
    response = ada.create(collection=post, record=good(ada, post, authorDid="ada"))

    assert (response.status_code, response.json()["error"]["code"]) in {
        (400, "CDV_SCHEMA_REJECT"),
        (403, "CDV_DID_MISMATCH"),
    }


@judges("SCHEMA-006")
@for_all(cost=2, case=st.sampled_from(LENGTHS))
def test_a_violation_has_a_pointer_a_rule_and_a_message(ada: Creator, case: tuple[str, str, int]):
    collection, name, limit = case
    response = ada.create(collection=collection, record=good(ada, collection, **{name: "x" * (limit + 1)}))

    violation = violations_of(expect_error(response, 400, "CDV_SCHEMA_REJECT"))[0]

    assert pointer_of(violation) in {f"/{name}", f"/record/{name}"}, violation
    assert any("length" in str(it).lower() for it in violation.values()), violation
    assert len([it for it in violation.values() if isinstance(it, str) and it]) >= 3, violation


@judges("SCHEMA-007")
@for_all(cost=2, wrong=st.permutations(["mimeType", "size", "checksum"]), count=st.integers(2, 3))
def test_every_violation_is_listed(ada: Creator, wrong: list[str], count: int):
    asset = "com.registryaccord.media.asset"
    bad = {"mimeType": 1, "size": "big", "checksum": "short"}
    response = ada.create(collection=asset, record=good(ada, asset, **{name: bad[name] for name in wrong[:count]}))

    pointers = {
        (pointer_of(it) or "").rpartition("/")[2]
        for it in violations_of(expect_error(response, 400, "CDV_SCHEMA_REJECT"))
    }

    assert pointers == {*wrong[:count]}


@judges("SCHEMA-008")
@for_all(cost=2, name=st.from_regex(r"[a-z]{3,10}", fullmatch=True))
def test_an_unknown_collection_is_refused(ada: Creator, name: str):
    expect_error(ada.create(collection=f"org.example.nobody.{name}"), 400)


@judges("SCHEMA-009")
@for_all(
    every=True,
    version=st.sampled_from(
        ["99.0.0", "0.0.1", "1.0.1", "1", "1.0", "latest", "", "1.0.0-x", "v1.0.0", "01.0.0", " 1.0.0"]
    ),
)
def test_an_unknown_version_is_refused(ada: Creator, version: str):
    expect_error(ada.create(schemaVersion=version), 400)


@judges("SCHEMA-010")
@newcomer("ada")
def test_the_schema_version_is_stored(ada: Creator):
    version = ada.created()["schemaVersion"]

    named = ada.created(schemaVersion=version)

    assert named["schemaVersion"] == version
    assert data(ada.get(named["uri"]))["schemaVersion"] == version
    assert {it["schemaVersion"] for it in ada.listed()} == {version}
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", version), version


# --- with the catalogue that the run serves ---


@judges("SCHEMA-011")
def test_the_latest_stable_version_decides(ada: Creator, catalogue: Catalogue):
    newest = ada.created(collection=published.LATEST, record={"text": "abc"})
    assert newest["schemaVersion"] == "1.10.0"
    expect_error(ada.create(collection=published.LATEST, record={"text": "abcd"}), 400, "CDV_SCHEMA_REJECT")

    older = ada.created(collection=published.LATEST, record={"text": "abcd"}, schemaVersion="1.9.0")

    assert data(ada.get(older["uri"]))["schemaVersion"] == "1.9.0"


@judges("SCHEMA-012", "SCHEMA-013")
def test_a_deprecated_version_warns(ada: Creator, plan: Plan, catalogue: Catalogue):
    if plan.rejects_deprecated:
        not_judged("the target refuses deprecated versions (--rejects-deprecated)")
    response = ada.create(collection=published.DEPRECATED, record={"text": "x"}, schemaVersion="1.0.0")

    with clause("SCHEMA-012"):
        assert data(response)["schemaVersion"] == "1.0.0"
        assert response.json().get("meta", {}).get("warnings"), "the response has no meta.warnings"
        assert "meta" not in ada.create(collection=published.DEPRECATED, record={"text": "x"}).json()
    with clause("SCHEMA-013"):
        # Any time: the contract does not say how an index states since when a version is deprecated.
        assert re.fullmatch(r"@\d+", response.headers.get("deprecation", ""), re.ASCII), response.headers.get(
            "deprecation"
        )
        sunset = response.headers.get("sunset", "")
        assert sunset.endswith("GMT"), f"Sunset: {sunset}"
        assert parsedate_to_datetime(sunset).timestamp() == catalogue.sunset_at


@judges("SCHEMA-012")
def test_a_deprecated_version_is_refused_if_configured(ada: Creator, plan: Plan, catalogue: Catalogue):
    if not plan.rejects_deprecated:
        not_judged("needs --rejects-deprecated, and a target that refuses deprecated versions")
    response = ada.create(collection=published.DEPRECATED, record={"text": "x"}, schemaVersion="1.0.0")

    expect_error(response, 400, "CDV_SCHEMA_REJECT")


@judges("SCHEMA-014")
def test_after_its_sunset_a_version_is_refused(ada: Creator, catalogue: Catalogue):
    response = ada.create(collection=published.SUNSET, record={"text": "x"}, schemaVersion="1.0.0")

    expect_error(response, 400, "CDV_SCHEMA_REJECT")
    ada.created(collection=published.SUNSET, record={"text": "x"})


@judges("SCHEMA-015")
def test_a_retired_version_is_refused(ada: Creator, catalogue: Catalogue):
    response = ada.create(collection=published.RETIRED, record={"text": "x"}, schemaVersion="1.0.0")

    expect_error(response, 400, "CDV_SCHEMA_REJECT")
    ada.created(collection=published.RETIRED, record={"text": "x"})


@judges("SCHEMA-016")
@for_all(
    cost=2,
    text=st.lists(
        st.sampled_from(["x", "\u00fc", "\u6f22", "\U0001f600", "e\u0301", "\U0001f469\u200d\U0001f467"]), max_size=9
    ).map("".join),
)
def test_lexicon_limits_count_bytes_and_graphemes(ada: Creator, catalogue: Catalogue, text: str):
    assert_measured(ada, text)


@judges("SCHEMA-016")
def test_lexicon_limits_are_exact(ada: Creator, catalogue: Catalogue):
    accent, family = "e\u0301", "\U0001f469\u200d\U0001f467"  # one grapheme each, of two and of three code points
    for text in ("x" * 5, "x" * 6, accent * 5, accent * 6, family * 3, family * 4):
        assert_measured(ada, text)


def assert_measured(ada: Creator, text: str) -> None:
    fits = len(text.encode()) <= published.LEXICON_BYTES_MAX and _graphemes(text) <= published.LEXICON_GRAPHEMES_MAX

    response = ada.create(collection=published.LEXICON, record={"text": text})

    if fits:
        data(response)
    else:
        expect_error(response, 400, "CDV_SCHEMA_REJECT")


@judges("SCHEMA-017")
@newcomer("ada")
def test_visibility_is_taken_from_the_catalogue(vault: Vault, catalogue: Catalogue, ada: Creator, bob: Creator):
    uri = ada.created(collection=published.PRIVATE, record={"text": "x"})["uri"]

    data(ada.get(uri))
    expect_error(vault.get(uri), 401)
    expect_error(vault.get(uri, bob), 403, "CDV_AUTHZ")
    assert data(vault.send("GET", LIST, by=bob, params={"did": ada.did}))["records"] == []


def _graphemes(text: str) -> int:
    """Count the graphemes of a text made of the pieces above: joined characters are one, combining accents are none."""
    joined = text.replace("\u200d\U0001f467", "").replace("\u0301", "")
    return len(joined)
