"""Classification of schema changes: a minor one never breaks a record, a major one has reasons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.catalogue_index import read_index
from cdv_core.domain.compatibility import broken_promises, compare, promised
from cdv_core.domain.json_schema import SchemaDocument, SchemaRefused, read_schema
from cdv_core.domain.schema_cost import check_cost
from cdv_core.domain.versions import Version
from cdv_core.domain.violations import find_violations
from tests.core.catalogues import entry, index_bytes
from tests.core.schema_changes import changed
from tests.core.schema_strategies import schemas, values

POST: dict[str, Any] = {
    "type": "object",
    "required": ["text"],
    "properties": {
        "text": {"type": "string", "maxLength": 100},
        "mood": {"enum": ["good", "bad"]},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "size": {"type": "integer", "minimum": 0},
    },
}


def _with(**changes: Any) -> dict[str, Any]:
    return {**POST, **changes}


def _member(name: str, node: Any) -> dict[str, Any]:
    return _with(properties={**POST["properties"], name: node})


def _change(old: object, new: object) -> str:
    return compare(read_schema(old), read_schema(new)).change


@pytest.mark.parametrize(
    "new",
    [
        POST,
        _with(title="A post", description="x", default={}, examples=[1]),
        _with(required=["text"], properties=dict(reversed(POST["properties"].items()))),
        _member("text", {"type": ["string"], "maxLength": 100, "minLength": 0}),
        _member("text", {"allOf": [{"type": "string"}, {"maxLength": 100}]}),
        _member("lang", {}),
        {"$ref": "#/definitions/post", "definitions": {"post": POST}},
    ],
)
def test_a_change_that_accepts_the_same_records_is_a_patch(new: object):
    assert _change(POST, new) == "patch"
    assert _change(new, POST) == "patch"


@pytest.mark.parametrize(
    "new",
    [
        _with(required=[]),
        _member("lang", {"type": "string", "format": "language"}),
        _member("text", {"type": "string", "maxLength": 101}),
        _member("text", {"type": "string"}),
        _member("text", {"type": ["string", "null"], "maxLength": 100}),
        _member("text", True),
        _member("mood", {"enum": ["good", "bad", "mixed"]}),
        _member("mood", {"type": "string"}),
        _member("mood", {"type": "string", "maxLength": 4, "pattern": "d$"}),
        _member("tags", {"type": "array", "items": {"type": "string"}, "maxItems": 6}),
        _member("tags", {"type": "array", "items": {"type": ["string", "integer"]}, "maxItems": 5}),
        _member("size", {"type": "number", "minimum": -1}),
        _member("size", {"type": "integer", "exclusiveMinimum": -1}),
        _member("size", {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]}),
    ],
)
def test_adding_optional_members_or_loosening_is_minor(new: object):
    difference = compare(read_schema(POST), read_schema(new))
    assert difference.change == "minor"
    assert difference.reasons


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (_with(required=["text", "mood"]), "now required: 'mood'"),
        (_with(type=["array"]), "the type is now array"),
        (_with(additionalProperties=False), "nothing is allowed here any more"),
        (_with(additionalProperties={"type": "string"}), "the type is now string"),
        (_with(maxProperties=3), "maxProperties is now 3"),
        (_with(propertyNames={"maxLength": 9}), "maxLength is now 9"),
        (_with(dependencies={"mood": ["tags"]}), "now required: 'tags'"),
        (_with(patternProperties={"^x": {"type": "null"}}), "the type is now null"),
        (_with(**{"not": {"required": ["mood"]}}), "other values are excluded"),
        (_with(oneOf=[{"required": ["a"]}, {"required": ["b"]}]), "oneOf has changed"),
        (_with(**{"if": {"required": ["a"]}, "then": {"required": ["b"]}}), "if has changed"),
        (_with(anyOf=[{"required": ["a"]}, {"required": ["b"]}]), "alternatives"),
        (_member("text", {"type": "string", "maxLength": 99}), "/text: maxLength is now 99, and was 100"),
        (_member("text", {"type": "string", "maxLength": 100, "pattern": "x"}), "/text: pattern is now 'x'"),
        (_member("text", {"type": "string", "maxLength": 100, "format": "uri"}), "/text: format is now 'uri'"),
        (_member("text", {"type": "string", "maxBytes": 100}), "/text: maxBytes is now 100"),
        (_member("mood", {"enum": ["good"]}), "/mood: a previously listed value is no longer allowed"),
        (_member("mood", {"const": "good"}), "/mood: a previously listed value"),
        (
            _member("tags", {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 5}),
            "/tags/*: minLength",
        ),
        (
            _member("tags", {"type": "array", "items": [{"type": "null"}], "maxItems": 5}),
            "/tags/0: the type is now null",
        ),
        (
            _member("tags", {"type": "array", "items": {"type": "string"}, "maxItems": 5, "uniqueItems": True}),
            "uniqueItems",
        ),
        (_member("size", {"type": "integer", "minimum": 1}), "/size: minimum is now 1, and was 0"),
        (_member("size", {"type": "integer", "minimum": 0, "multipleOf": 2}), "/size: multipleOf is now 2"),
        (_member("size", {"type": "integer", "minimum": 0, "maximum": 9}), "/size: maximum is now 9"),
        (_member("size", {"enum": [0, 1]}), "/size: only listed values"),
        (_member("size", False), "/size: nothing is allowed here any more"),
        (
            {"type": "object", "required": ["text"], "properties": {"text": {"type": "integer"}}},
            "/text: the type is now integer",
        ),
    ],
)
def test_a_change_that_may_refuse_a_record_is_major_with_a_reason(new: object, reason: str):
    difference = compare(read_schema(POST), read_schema(new))
    assert difference.change == "major"
    assert any(reason in found for found in difference.reasons), difference.reasons


def test_a_narrower_number_is_a_major_change_and_a_wider_one_is_minor():
    assert _change({"type": "number"}, {"type": "integer"}) == "major"
    assert _change({"type": "integer"}, {"type": "number"}) == "minor"
    assert _change({"type": "number", "multipleOf": 2}, {"type": "integer"}) == "minor"
    assert _change({"multipleOf": 4}, {"multipleOf": 2}) == "minor"
    assert _change({"multipleOf": 2}, {"multipleOf": 4}) == "major"
    assert _change({"multipleOf": 0.25}, {"multipleOf": 0.125}) == "minor"


def test_loosening_contains_is_minor_and_tightening_it_is_major():
    assert _change({"contains": {"minimum": 2}}, {"contains": {"minimum": 1}}) == "minor"
    assert _change({"contains": {"minimum": 1}}, {"contains": {"minimum": 2}}) == "major"


def test_keywords_for_other_types_of_value_change_nothing():
    assert _change(POST, _with(contains={"type": "null"}, minLength=3, minimum=1)) == "patch"


def test_a_new_member_of_a_closed_object_is_minor_and_not_an_added_member():
    closed = {**POST, "additionalProperties": False}
    wider = {**_member("lang", {"type": "string"}), "additionalProperties": False}
    difference = compare(read_schema(closed), read_schema(wider))
    assert (difference.change, difference.added_members) == ("minor", frozenset())


def test_a_new_property_is_compared_with_the_old_additional_properties():
    words = {"additionalProperties": {"type": "string"}}
    assert _change(words, {**words, "properties": {"a": {"type": "string"}}}) == "patch"
    assert _change(words, {**words, "properties": {"a": {"type": "integer"}}}) == "major"


def test_additional_properties_do_not_apply_to_names_that_match_a_pattern():
    old = {"patternProperties": {"^a": {}}, "additionalProperties": {"type": "string"}}
    assert _change(old, {**old, "properties": {"ab": {"type": "string"}}}) == "major"
    assert _change(old, {"patternProperties": {"^a": {"type": "string"}}}) == "major"
    assert _change(old, {"patternProperties": {"^a": {}}}) == "minor"


def test_added_member_names_are_reported():
    difference = compare(read_schema(POST), read_schema(_member("lang", {"type": "string"})))
    assert difference.added_members == {"lang"}
    assert "the optional member 'lang' is new" in difference.reasons


def test_adding_an_any_of_alternative_is_minor_and_replacing_one_is_major():
    old = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert _change(old, {"anyOf": [{"type": "null"}, {"type": "integer"}, {"type": "string"}]}) == "minor"
    assert _change(old, {"anyOf": [{"type": "null"}, {"type": "integer"}]}) == "major"


def test_narrowing_a_not_schema_is_minor_and_widening_it_is_major():
    assert _change({"not": {"minimum": 5}}, {"not": {"minimum": 6}}) == "minor"
    assert _change({"not": {"minimum": 6}}, {"not": {"minimum": 5}}) == "major"


def test_recursive_schemas_are_compared():
    def tree(value: object) -> dict[str, Any]:
        return {"type": "object", "required": ["v"], "properties": {"v": value, "next": {"$ref": "#"}}}

    assert _change(tree({"maximum": 1}), tree({"maximum": 2})) == "minor"
    assert _change(tree({"maximum": 2}), tree({"maximum": 1})) == "major"


@pytest.mark.timeout(60)
def test_references_that_double_at_every_step_are_compared_in_bounded_time():
    def twice(most: int) -> dict[str, Any]:
        again = {"properties": {"a": {"$ref": "#/definitions/again"}}}
        return {"definitions": {"again": {**again, "allOf": [again], "maxProperties": most}}, "allOf": [again]}

    assert _change(twice(3), twice(4)) == "minor"
    assert _change(twice(4), twice(3)) == "major"


def test_an_unchanged_one_of_counts_as_changed_if_its_reference_target_changes():
    def choice(most: int) -> dict[str, Any]:
        return {
            "oneOf": [{"$ref": "#/definitions/a"}, {"type": "string"}],
            "definitions": {"a": {"maximum": most, "type": "integer"}},
        }

    assert _change(choice(1), {**choice(1), "title": "x", "minLength": 0}) == "patch"
    assert _change({**choice(1), "maxLength": 3}, choice(1)) == "minor"
    assert _change(choice(1), choice(2)) == "major"


# Soundness: search for a record that the old version accepts and the new one refuses


def _names(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for member in value.values():
            yield from _names(member)
    elif isinstance(value, list):
        for element in value:
            yield from _names(element)


def _read(schema: object) -> SchemaDocument:
    try:
        document = read_schema(schema)
        check_cost(document)
    except SchemaRefused:
        assume(False)
        raise
    return document


def _search(old_schema: object, new_schema: object, records: list[object]) -> None:
    old, new = _read(old_schema), _read(new_schema)
    difference = compare(old, new)
    if difference.change == "major":
        return
    for record in records:
        # A minor version may constrain a member that was unconstrained; `cdv schemas rehearse` finds such records.
        if not difference.added_members & set(_names(record)):
            accepted, still = not find_violations(old, record), not find_violations(new, record)
            assert still or not accepted, (difference, record)
            assert still == accepted or difference.change == "minor", (difference, record)


_pairs = st.one_of(changed(schemas), changed(schemas), st.tuples(schemas, schemas))
_SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@settings(max_examples=80, deadline=None, suppress_health_check=_SLOW)
@given(_pairs, st.lists(values, min_size=5, max_size=15))
def test_no_breaking_change_is_classified_as_minor(pair: tuple[object, object], records: list[object]):
    _search(*pair, records)


@pytest.mark.long
@settings(max_examples=5_000, deadline=None, suppress_health_check=_SLOW)
@given(_pairs, st.lists(values, min_size=5, max_size=30))
def test_no_breaking_change_is_classified_as_minor_with_many_examples(
    pair: tuple[object, object], records: list[object]
):
    _search(*pair, records)


@settings(max_examples=25, deadline=None, suppress_health_check=_SLOW)
@given(schemas)
def test_a_schema_is_compatible_with_itself(schema: object):
    document = _read(schema)
    assert compare(document, document).change == "patch"


# Version numbers


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("1.0.0", "1.0.1", "patch"),
        ("1.0.0", "1.1.0", "minor"),
        ("1.9.9", "2.0.0", "major"),
        ("0.1.0", "0.2.0", "major"),
        ("0.1.0", "0.1.1", "patch"),
        ("1.0.0-rc.1", "1.0.0", "patch"),
    ],
)
def test_two_version_numbers_promise_a_size_of_change(old: str, new: str, change: str):
    assert promised(Version.parse(old), Version.parse(new)) == change


def test_a_version_number_that_promises_less_than_the_actual_change_is_reported():
    versions: list[Any] = ["1.0.0", "1.0.1", "1.1.0", "2.0.0", {"version": "2.1.0", "status": "draft"}]
    index = read_index(index_bytes(entry("a.b.post", versions, latest="2.0.0")))
    most = {"1.0.0": 10, "1.0.1": 11, "1.1.0": 9, "2.0.0": 1, "2.1.0": 0}
    documents = {
        f"a.b.post/{version}.json": json.dumps({"maxLength": length}).encode() for version, length in most.items()
    }
    found = list(broken_promises(build_catalogue(index, documents)))
    assert [(each.old, each.new, each.promised, each.difference.change) for each in found] == [
        ("1.0.0", "1.0.1", "patch", "minor"),
        ("1.0.1", "1.1.0", "minor", "major"),
    ]
    assert str(found[1]) == "a.b.post 1.1.0 is a major change to 1.0.1: the record: maxLength is now 9, and was 11"
