"""Each draft-07 keyword that is accepted at load, with values that it accepts and values that it refuses."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from cdv_core.domain.validators import compile_validator
from cdv_core.domain.violations import find_violations

# Schema, values that it accepts, values that it refuses.
CASES: list[tuple[Any, list[Any], list[Any]]] = [
    (True, [None, 1, {}], []),
    (False, [], [None, 1, {}]),
    ({}, [None, 1, "x", [], {}], []),
    ({"type": "string"}, ["", "1"], [1, None, True, [], {}]),
    ({"type": "integer"}, [0, -3, 2**63 - 1], [1.5, "1", None, True]),
    ({"type": "number"}, [0, 1.5, -2], ["1", None, False]),
    ({"type": "boolean"}, [True, False], [0, 1, "true", None]),
    ({"type": "null"}, [None], [0, "", False, [], {}]),
    ({"type": "array"}, [[], [1]], [{}, "[]", None]),
    ({"type": "object"}, [{}, {"a": 1}], [[], "{}", None]),
    ({"type": ["string", "null"]}, ["", None], [0, False, [], {}]),
    ({"enum": ["red", 1, None, [2], {"a": 0}]}, ["red", 1, None, [2], {"a": 0}], ["Red", 2, [], {"a": 1}, True]),
    ({"enum": [0, True]}, [0, True], [False, 1, "0"]),
    ({"const": {"a": [1, None]}}, [{"a": [1, None]}], [{"a": [1]}, {"a": [None, 1]}, {}, None]),
    ({"const": False}, [False], [0, None, [], ""]),
    ({"const": 'quote " brace { back \\ slash'}, ['quote " brace { back \\ slash'], ["quote"]),
    ({"multipleOf": 3}, [0, 9, -6, "x"], [1, 10]),
    ({"multipleOf": 0.25}, [0.75, -1.5, 5], [0.3, 1.125]),
    ({"maximum": 2.5}, [2.5, -9, "x", None], [2.6, 3]),
    ({"exclusiveMaximum": 3}, [2.9, 2, []], [3, 3.1, 4]),
    ({"minimum": -1}, [-1, 0, "x"], [-1.1, -2]),
    ({"exclusiveMinimum": 0}, [0.1, 1, {}], [0, -1]),
    ({"maxLength": 2}, ["", "ab", "\U0001f600\U0001f600", 123, ["a", "b", "c"]], ["abc", "é\U0001f600x"]),
    ({"minLength": 2}, ["ab", "\U0001f600x", 1], ["", "a", "\U0001f600"]),
    ({"pattern": "^a+$"}, ["a", "aaa", 1, None], ["", "b", "ab"]),
    ({"pattern": "b"}, ["abc", "b"], ["", "aca"]),
    ({"items": {"type": "integer"}}, [[], [1, 2], {"0": "x"}, "x"], [["1"], [1, None]]),
    ({"items": False}, [[]], [[1]]),
    ({"items": [{"type": "string"}, {"type": "integer"}]}, [[], ["a"], ["a", 1], ["a", 1, None]], [[1], ["a", "b"]]),
    ({"items": [{}], "additionalItems": {"type": "null"}}, [[1], [1, None, None], []], [[1, 2]]),
    ({"items": [{}, {}], "additionalItems": False}, [[], [1, 2]], [[1, 2, 3]]),
    ({"additionalItems": False}, [[1, 2, 3]], []),
    ({"maxItems": 1}, [[], [1], "ab", {"a": 1, "b": 2}], [[1, 2]]),
    ({"minItems": 1}, [[0], "", {}], [[]]),
    ({"uniqueItems": True}, [[], [1, 2], [1, True], [0, False], [{"a": 1}, {"a": 2}]], [[1, 1], [{"a": 1}, {"a": 1}]]),
    ({"uniqueItems": False}, [[1, 1]], []),
    ({"contains": {"const": 5}}, [[5], [1, 5], "x"], [[], [1]]),
    ({"contains": False}, ["x", {}], [[], [1]]),
    ({"maxProperties": 1}, [{}, {"a": 1}, [1, 2]], [{"a": 1, "b": 2}]),
    ({"minProperties": 1}, [{"a": 1}, [], ""], [{}]),
    ({"required": ["a", "b c"]}, [{"a": 1, "b c": None}, [], "a"], [{}, {"a": 1}, {"b c": 1}]),
    ({"properties": {"a": {"type": "integer"}, "b": False}}, [{}, {"a": 1}, {"c": 2}, []], [{"a": "1"}, {"b": 1}]),
    ({"patternProperties": {"^x": {"type": "null"}}}, [{}, {"xa": None, "a": 1}], [{"x": 1}, {"xx": None, "xy": 0}]),
    ({"additionalProperties": False, "properties": {"a": {}}}, [{}, {"a": 1}], [{"b": 1}, {"a": 1, "b": 2}]),
    (
        {"properties": {"a": {}}, "patternProperties": {"^p": {}}, "additionalProperties": {"type": "string"}},
        [{"a": 1, "p1": 2, "z": "s"}, {}],
        [{"z": 1}, {"a": 1, "q": None}],
    ),
    ({"propertyNames": {"maxLength": 2}}, [{}, {"ab": 1}, ["abc"]], [{"abc": 1}]),
    ({"propertyNames": False}, [{}, []], [{"a": 1}]),
    ({"dependencies": {"a": ["b"]}}, [{}, {"b": 1}, {"a": 1, "b": 2}, []], [{"a": 1}]),
    ({"dependencies": {"a": {"required": ["c"]}, "z": False}}, [{"c": 1}, {"a": 1, "c": 2}], [{"a": 1}, {"z": 1}]),
    ({"allOf": [{"type": "integer"}, {"minimum": 2}]}, [2, 3], [1, "3", 2.5]),
    ({"anyOf": [{"type": "string"}, {"minimum": 2}]}, ["x", 2, None], [1]),
    ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, [1, 2.5], [3, 1.5]),
    ({"oneOf": [True, True]}, [], [1, None]),
    ({"not": {"type": "integer"}}, ["x", 1.5, None], [1]),
    ({"not": {}}, [], [1, None]),
    ({"if": {"minimum": 5}, "then": {"multipleOf": 2}, "else": {"multipleOf": 3}}, [6, 8, 3, "x"], [7, 4, 2]),
    ({"if": {"type": "string"}, "then": {"maxLength": 1}}, ["a", 12], ["ab"]),
    ({"then": False, "else": False}, [1, None], []),
    (
        {"definitions": {"n": {"type": "null"}}, "properties": {"a": {"$ref": "#/definitions/n"}}},
        [{}, {"a": None}],
        [{"a": 1}],
    ),
    ({"properties": {"next": {"$ref": "#"}}, "required": ["v"]}, [{"v": 1, "next": {"v": 2}}], [{"v": 1, "next": {}}]),
    ({"title": "t", "description": "d", "default": 7, "examples": [1], "$comment": "c"}, [1, None], []),
]


@pytest.mark.parametrize(("schema", "accepted", "refused"), CASES, ids=[str(case[0])[:60] for case in CASES])
def test_a_keyword_accepts_valid_values_and_refuses_invalid_ones(schema: Any, accepted: list[Any], refused: list[Any]):
    validator, reference = compile_validator(schema), jsonschema.Draft7Validator(schema)
    for value, valid in [(each, True) for each in accepted] + [(each, False) for each in refused]:
        assert (validator.violations(value) == ()) == valid, value
        # The generated validator and the search for violations must agree.
        assert (find_violations(validator.document, value) == ()) == valid, value
        assert reference.is_valid(value) == valid, f"the case itself is wrong: {value}"


def test_multiple_of_uses_decimal_arithmetic():
    # The reference divides doubles, by which 0.07 is no multiple of 0.01.
    validator = compile_validator({"multipleOf": 0.01})
    assert validator.violations(0.07) == validator.violations(1.1) == ()
    assert [violation.rule for violation in validator.violations(0.005)] == ["multipleOf"]
