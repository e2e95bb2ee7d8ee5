"""Tests of CIDs: they depend on the value of the record only, and equal those computed by this suite."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

import httpx
from hypothesis import strategies as st

from conformance.http.cids import cid_of
from conformance.http.json_samples import JSON_OBJECTS, JSON_VALUES, NUMBERS, number_spellings, profiles, reserialized
from conformance.http.profiles import for_all
from conformance.http.requirements import clause, judges
from conformance.http.vault import PROFILE, RECORD, Creator, data, expect_error

CID = re.compile(r"bafyrei[a-z2-7]{52}", re.ASCII)


def create_text(creator: Creator, record: str) -> httpx.Response:
    """Create a record whose JSON is sent exactly as given."""
    frame = json.dumps({"collection": PROFILE, "did": creator.did})
    return creator.vault.send("POST", RECORD, by=creator, content=f'{frame[:-1]}, "record": {record}}}'.encode())


@judges("CID-001", "CID-002")
@for_all(record=profiles())
def test_the_cid_equals_the_one_computed_by_the_suite(ada: Creator, record: dict[str, Any]):
    cid = ada.created(record=record)["cid"]

    with clause("CID-001"):
        assert CID.fullmatch(cid), cid
    with clause("CID-002"):
        assert cid == cid_of(record)


@judges("CID-002")
@for_all(cost=2, numbers=st.lists(NUMBERS, min_size=1, max_size=8), depth=st.integers(0, 10))
def test_numbers_and_depths_are_encoded_canonically(ada: Creator, numbers: list[int | float], depth: int):
    value: Any = numbers
    for _ in range(depth):
        value = {"in": [value]}
    record = {"displayName": "Ada", "n": value, "a" * 24: None, "b" * 256: True}

    assert ada.created(record=record)["cid"] == cid_of(record)


@judges("CID-003")
@for_all(number=st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(-1e6, 1e6) | st.sampled_from([0, 1, -1, 0.5]))
def test_the_spelling_of_a_number_does_not_count(ada: Creator, number: float):
    expected = cid_of({"displayName": "Ada", "n": number})

    for spelling in number_spellings(number):
        cid = data(create_text(ada, f'{{"displayName": "Ada", "n": {spelling}}}'))["cid"]
        assert cid == expected, spelling


@judges("CID-004")
@for_all(beyond=JSON_OBJECTS, seed=st.integers(0, 2**32))
def test_order_and_white_space_do_not_count(ada: Creator, beyond: dict[str, Any], seed: int):
    record = {**beyond, "displayName": "Ada", "x": 1}
    for name in ("authorDid", "bio"):
        record.pop(name, None)

    assert data(create_text(ada, reserialized(record, seed)))["cid"] == cid_of(record)


@judges("CID-004")
@for_all(names=st.permutations(["a", "b", "aa", "B", "\u00e9", "e\u0301", "\U00010000", "\uffff", ""]))
def test_members_have_no_order(ada: Creator, names: list[str]):
    record = {"displayName": "Ada", **{name: len(name) for name in names}}

    assert ada.created(record=record)["cid"] == cid_of(record)


@judges("CID-005")
def test_escapes_do_not_count_and_normal_forms_do(ada: Creator):
    plain = data(create_text(ada, '{"displayName": "A\u00e9/\U0001f600"}'))["cid"]

    for spelling in (r'"\u0041\u00e9\/\ud83d\ude00"', r'"A\u00E9/\uD83D\uDE00"'):
        assert data(create_text(ada, f'{{"displayName": {spelling}}}'))["cid"] == plain, spelling
    decomposed = unicodedata.normalize("NFD", "A\u00e9/\U0001f600")
    assert ada.created(record={"displayName": decomposed})["cid"] == cid_of({"displayName": decomposed}) != plain


@judges("CID-006")
@for_all(
    every=True,
    number=st.sampled_from(
        [
            "18446744073709551616",
            "-18446744073709551616",
            "-9223372036854775809000",
            "1e30",
            "-1e30",
            "1" + "0" * 400,
            "1e308",
            "1e309",
            "-1e400",
            "36893488147419103232.0",
            "1E+20",
        ]
    ),
)
def test_integers_beyond_64_bits_are_refused(ada: Creator, number: str):
    expect_error(create_text(ada, f'{{"displayName": "Ada", "n": [{number}]}}'), 400, "CDV_VALIDATION")


@judges("CID-007")
@for_all(
    every=True,
    bad=st.sampled_from([r"\u0000", r"a\u0000b", r"\ud800", r"\udfff", r"\ude00\ud83d", r"\ud83dx"]),
    form=st.sampled_from(
        ['{{"displayName": "{}"}}', '{{"displayName": "Ada", "{}": 1}}', '{{"displayName": "A", "x": [["{}"]]}}']
    ),
)
def test_text_with_a_nul_or_a_lone_surrogate_is_refused(ada: Creator, bad: str, form: str):
    expect_error(create_text(ada, form.format(bad)), 400, "CDV_VALIDATION")


@judges("CID-008")
@for_all(cost=2, values=st.lists(JSON_VALUES, min_size=1, max_size=4))
def test_listed_records_have_the_cid_of_their_value(ada: Creator, values: list[Any]):
    receipts = {ada.created(record={"displayName": "Ada", "x": value})["uri"] for value in values}
    page = data(ada.listing(limit=len(values)))

    assert {record["uri"] for record in page["records"]} == receipts
    for record in page["records"]:
        assert cid_of(record["value"]) == record["cid"]
