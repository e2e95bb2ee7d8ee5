"""Violations of a schema: all are listed, each with its JSON pointer, up to a bound."""

from __future__ import annotations

from cdv_core.domain.json_schema import ASSERTIONS
from cdv_core.domain.validators import compile_validator
from cdv_core.domain.violations import VIOLATIONS_MAX
from cdv_core.errors import Violation


def _broken(schema: object, value: object) -> list[tuple[str, str]]:
    return [(found.pointer, found.rule) for found in compile_validator(schema).violations(value)]


def test_every_violation_is_listed_with_pointer_rule_and_message():
    schema = {
        "type": "object",
        "required": ["text", "author"],
        "properties": {
            "text": {"type": "string", "maxLength": 3},
            "tags": {"items": {"type": "string", "minLength": 1}},
        },
    }
    found = compile_validator(schema).violations({"text": "long", "tags": ["a", "", 3]})
    assert found == (
        Violation("", "required", "must have the member 'author'"),
        Violation("/text", "maxLength", "must have at most 3 characters, and has 4"),
        Violation("/tags/1", "minLength", "must have at least 1 characters, and has 0"),
        Violation("/tags/2", "type", "must be string"),
    )


def test_a_violation_found_by_several_subschemas_is_listed_once():
    assert _broken({"allOf": [{"required": ["a"]}, {"required": ["a"]}]}, {}) == [("", "required")]


def test_a_pointer_escapes_member_names():
    assert _broken({"properties": {"a/b~c": {"type": "null"}}}, {"a/b~c": 1}) == [("/a~1b~0c", "type")]


def test_each_keyword_reports_the_pointer_of_its_violation():
    for schema, value, fault in [
        ({"additionalProperties": False, "properties": {"a": True}}, {"a": 1, "b": 2}, ("/b", "additionalProperties")),
        ({"items": [True], "additionalItems": False}, [1, 2], ("/1", "additionalItems")),
        ({"propertyNames": {"maxLength": 1}}, {"ab": 1}, ("/ab", "propertyNames")),
        ({"dependencies": {"a": ["b"]}}, {"a": 1}, ("", "dependencies")),
        ({"if": {"type": "object"}, "then": {"minProperties": 1}}, {}, ("", "minProperties")),
        ({"not": {}}, 1, ("", "not")),
        ({"oneOf": [True, True]}, 1, ("", "oneOf")),
        ({"contains": {"const": 1}}, [2], ("", "contains")),
        ({"uniqueItems": True}, [1, 1.0], ("", "uniqueItems")),
        ({"properties": {"a": False}}, {"a": 1}, ("/a", "false")),
        ({"maxBytes": 1}, "é", ("", "maxBytes")),
        ({"minGraphemes": 2}, "e\u0301", ("", "minGraphemes")),
    ]:
        assert _broken(schema, value) == [fault]


def test_the_number_of_listed_violations_is_bounded():
    found = compile_validator({"items": {"type": "string"}}).violations([1] * 100_000)
    assert len(found) == VIOLATIONS_MAX + 1
    assert found[-1] == Violation("", "more", "there are more violations than are listed here")


def test_the_total_size_of_listed_violations_is_bounded():
    found = compile_validator({"additionalProperties": {"items": {"type": "string"}}}).violations(
        {"k" * 100_000: [1] * 900}
    )
    assert sum(len(violation.pointer) + len(violation.message) for violation in found) < 300_000
    assert found[-1].rule == "more"


def test_a_boolean_is_no_number_and_a_whole_number_is_an_integer():
    assert _broken({"type": "integer"}, True) == [("", "type")]
    assert _broken({"type": "integer"}, 1.0) == []
    assert _broken({"type": "number"}, False) == [("", "type")]
    assert _broken({"enum": [1]}, True) == [("", "enum")]
    assert _broken({"const": False}, 0) == [("", "const")]


def test_length_counts_unicode_code_points():
    assert _broken({"maxLength": 2}, "😀😀") == []
    assert _broken({"maxLength": 2}, "e\u0301e") == [("", "maxLength")]


def test_multiple_of_is_exact_for_fractions_and_large_numbers():
    assert _broken({"multipleOf": 1000003}, 4503599627370495.5) == [("", "multipleOf")]
    assert _broken({"multipleOf": 0.01}, 19.01) == []
    assert _broken({"multipleOf": 0.01}, 9223372036854775807) == []
    assert _broken({"multipleOf": 0.3}, 9223372036854775807) == [("", "multipleOf")]


def test_every_assertion_keyword_is_enforced():
    # For each keyword a value that breaks only that one: no keyword is accepted at load and then ignored.
    broken: dict[str, tuple[object, object]] = {
        "type": ("null", 1), "enum": ([1], 2), "const": (1, 2), "minLength": (2, "a"), "maxLength": (0, "a"),
        "minBytes": (2, "a"), "maxBytes": (0, "a"), "minGraphemes": (2, "a"), "maxGraphemes": (0, "a"),
        "pattern": ("b", "a"),
        "format": ("did", "a"), "minimum": (1, 0), "maximum": (0, 1), "exclusiveMinimum": (1, 1),
        "exclusiveMaximum": (1, 1),
        "multipleOf": (2, 1), "minItems": (1, []), "maxItems": (0, [1]), "uniqueItems": (True, [1, 1]),
        "minProperties": (1, {}), "maxProperties": (0, {"a": 1}), "required": (["a"], {}),
    }  # fmt: skip
    assert broken.keys() == ASSERTIONS.keys()
    for keyword, (operand, value) in broken.items():
        assert _broken({keyword: operand}, value) == [("", keyword)]
