"""Schema documents: unknown or invalid keywords, external references and excessive cost are refused by name."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cdv_core.domain.json_schema import SchemaRefused, read_schema
from cdv_core.domain.validators import compile_validator


def _broken(schema: object, value: object) -> list[tuple[str, str]]:
    return [(found.pointer, found.rule) for found in compile_validator(schema).violations(value)]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"contentEncoding": "base64"}, "/contentEncoding is not a keyword"),
        ({"contentMediaType": "application/json"}, "/contentMediaType is not a keyword"),
        ({"$defs": {}}, "/\\$defs is not a keyword"),
        ({"unevaluatedProperties": False}, "is not a keyword"),
        ({"maxlength": 3}, "/maxlength is not a keyword"),
        ({"properties": {"a/b": {"typ": "string"}}}, "/properties/a~1b/typ is not a keyword"),
        ({"format": "email"}, "'email' is not a format"),
        ({"format": "datetime"}, "'datetime' is not a format"),
        ({"format": 1}, "is not a format"),
        ({"type": "text"}, "'text' is not a type"),
        ({"type": []}, "neither a type"),
        ({"type": ["string", "string"]}, "each once"),
        ({"minLength": -1}, "whole number"),
        ({"minLength": True}, "whole number"),
        ({"maxLength": 1.5}, "whole number"),
        ({"minimum": "1"}, "is not a number"),
        ({"maximum": True}, "is not a number"),
        ({"multipleOf": 0}, "above 0"),
        ({"multipleOf": 0.000000001}, "more than 8 decimals"),
        ({"required": "a"}, "array of strings"),
        ({"required": ["a", "a"]}, "twice"),
        ({"required": [1]}, "array of strings"),
        ({"uniqueItems": 1}, "true or false"),
        ({"enum": "a"}, "not an array"),
        ({"properties": []}, "not an object of schemas"),
        ({"properties": {"a": 1}}, "is not a schema"),
        ({"properties": {"a": None}}, "is not a schema"),
        ({"allOf": []}, "is empty"),
        ({"anyOf": {}}, "array of schemas"),
        ({"dependencies": {"a": ["b", "b"]}}, "twice"),
        ({"items": 1}, "is not a schema"),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "not draft-07"),
        ({"$schema": 7}, "not a string"),
        ({"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#"}}}, "at the root only"),
        ({"definitions": {"a": {"$id": "http://elsewhere/"}}}, "at the root only"),
        ({"$id": 1}, "not a string"),
        ({"title": 1}, "not a string"),
        ({"readOnly": "yes"}, "true or false"),
        ({"examples": {}}, "not an array"),
        ([], "the document is not a schema"),
        ("object", "the document is not a schema"),
        (None, "the document is not a schema"),
    ],
)
def test_an_unenforced_or_invalid_keyword_is_refused_by_name(schema: object, reason: str):
    with pytest.raises(SchemaRefused, match=reason):
        compile_validator(schema)


@pytest.mark.parametrize(
    "ref",
    [
        "https://example.com/schema.json", "http://127.0.0.1:1/x", "file:///etc/passwd", "other.json",
        "//host/x", "jar:x!/y",
        "urn:uuid:x", "", "#anchor", "#/definitions/nothing", "#/title", "#/enum/0", "#//", "#/definitions/%ff",
    ],
)  # fmt: skip
def test_an_external_or_dangling_reference_is_refused(ref: str):
    schema = {"title": "x", "enum": [{}], "definitions": {"a": {}}, "properties": {"b": {"$ref": ref}}}
    with pytest.raises(SchemaRefused, match=r"/properties/b/\$ref"):
        compile_validator(schema)


def test_a_ref_member_in_enum_const_or_default_is_data():
    schema = {"enum": [{"$ref": "https://example.com/"}], "default": {"$ref": "file:///x"}}
    assert _broken(schema, {"$ref": "https://example.com/"}) == []
    assert _broken({"const": {"$ref": "#/definitions/x", "$id": "http://x/"}}, {}) == [("", "const")]


def test_a_property_may_be_named_like_a_keyword():
    schema = {"properties": {"$ref": {"type": "string"}, "$id": {"type": "integer"}, "enum": {"maximum": 1}}}
    assert _broken(schema, {"$ref": 1, "$id": "x", "enum": 2}) == [
        ("/$ref", "type"),
        ("/$id", "type"),
        ("/enum", "maximum"),
    ]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {
            "definitions": {"a": {"anyOf": [{"$ref": "#/definitions/b"}]}, "b": {"not": {"$ref": "#/definitions/a"}}},
            "items": {"$ref": "#/definitions/a"},
        },
        {"dependencies": {"a": {"$ref": "#"}}},
        {"if": {"$ref": "#"}, "then": True},
    ],
)
def test_a_reference_cycle_that_descends_into_no_value_is_refused(schema: object):
    with pytest.raises(SchemaRefused, match="leads back to itself"):
        compile_validator(schema)


def test_a_recursive_schema_is_accepted():
    tree = {"type": "object", "required": ["v"], "properties": {"v": {"type": "integer"}, "next": {"$ref": "#"}}}
    value: dict[str, Any] = {"v": "x"}
    for _ in range(30):
        value = {"v": 1, "next": value}
    assert _broken(tree, value) == [("/next" * 30 + "/v", "type")]


# The cost of validation


def _doubling(times: int) -> dict[str, Any]:
    """Return a schema whose definitions each apply the next one twice."""
    definitions: dict[str, Any] = {f"d{n}": {"allOf": [{"$ref": f"#/definitions/d{n + 1}"}] * 2} for n in range(times)}
    return {"$ref": "#/definitions/d0", "definitions": {**definitions, f"d{times}": {"minimum": 1}}}


@pytest.mark.parametrize(
    "schema",
    [
        _doubling(20),
        {"anyOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]},
        {"items": {"anyOf": [{"enum": list(range(1000))}, {"enum": list(range(1000))}]}},
        {"items": {"oneOf": [{"type": "integer", "minimum": n} for n in range(200)]}},
        {"additionalProperties": {"pattern": "^(?:[ab]{100}){5}(?:[cd]{100}){5}$"}},
        {"patternProperties": {f"{'x?' * 200}{n}": True for n in range(9)}},
        {"propertyNames": {"enum": [1.5] * 2000}},
    ],
)
def test_a_schema_that_could_stall_a_request_is_refused(schema: object):
    started = time.monotonic()
    with pytest.raises(SchemaRefused, match="can cost"):
        compile_validator(schema)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("depth", [100, 100_000])
def test_a_schema_that_nests_too_deeply_is_refused(depth: int):
    schema: Any = {"type": "integer"}
    for _ in range(depth):
        schema = {"items": schema}
    with pytest.raises(SchemaRefused, match="nests more than 64"):
        compile_validator(schema)


def test_a_chain_of_references_that_is_too_long_is_refused():
    chain = {f"d{n}": {"allOf": [{"$ref": f"#/definitions/d{n + 1}"}]} for n in range(5_000)}
    schema = {"$ref": "#/definitions/d0", "definitions": {**chain, "d5000": {}}}
    with pytest.raises(SchemaRefused, match="one within the other"):
        compile_validator(schema)


def test_a_recursive_schema_validates_a_deeply_nested_value():
    node: dict[str, Any] = {"type": "array", "items": {"$ref": "#/definitions/n0"}}
    chain = {f"n{n}": {"allOf": [{"$ref": f"#/definitions/n{n + 1}"}]} for n in range(2)}
    schema = {"$ref": "#/definitions/n0", "definitions": {**chain, "n2": {"anyOf": [node, {"type": "string"}]}}}
    value: Any = 1
    for _ in range(31):
        value = [value]
    assert _broken(schema, value) == [("", "anyOf")]


def test_a_deeply_nested_schema_within_the_limit_validates():
    schema: Any = {"type": "integer"}
    for _ in range(60):
        schema = {"anyOf": [schema]} if _ % 2 else {"items": schema}
    value: Any = 1
    for _ in range(30):
        value = [value]
    assert _broken(schema, value) == []


def test_the_normal_form_omits_keywords_without_effect():
    schema = {
        "title": "x", "default": 1, "minLength": 0, "required": [], "then": {"type": "null"}, "additionalItems": False,
        "items": {"description": "y"}, "properties": {"a": {}}, "definitions": {"b": {"type": "null"}},
    }  # fmt: skip
    assert read_schema(schema).root == {"properties": {"a": True}}
