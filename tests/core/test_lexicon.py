"""Translation of Lexicon records: fields keep their AT Protocol meaning, inexpressible documents are refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdv_adapters.schemas.bundled import bundled_catalogue
from cdv_core.domain.canonical import cid_of
from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.catalogue_documents import CatalogueRefused
from cdv_core.domain.catalogue_index import read_index
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.json_schema import SchemaRefused
from cdv_core.domain.lexicon import is_lexicon, translate
from cdv_core.domain.validators import Validator, compile_validator
from tests.core.catalogues import entry, index_bytes

NAME = Nsid("com.example.thing")
CID = cid_of({})

POST = {
    "lexicon": 1,
    "id": "com.registryaccord.feed.post",
    "defs": {
        "record": {
            "type": "record",
            "description": "A post.",
            "key": "tid",
            "record": {
                "type": "object",
                "required": ["text", "createdAt", "authorDid"],
                "properties": {
                    "text": {"type": "string", "maxLength": 2048},
                    "createdAt": {"type": "string", "format": "datetime"},
                    "authorDid": {"type": "string", "format": "did"},
                },
            },
        },
        "list": {"type": "query", "parameters": {"type": "params"}, "output": {"encoding": "application/json"}},
    },
}


def _lexicon(field: Any, /, **defs: Any) -> dict[str, Any]:
    record = {"type": "record", "key": "tid", "record": {"type": "object", "properties": {"f": field}}}
    return {"lexicon": 1, "id": NAME, "defs": {"main": record, **defs}}


def _validator(field: Any, /, others: dict[str, object] | None = None, **defs: Any) -> Validator:
    return compile_validator(translate(_lexicon(field, **defs), NAME, others or {}))


def _accepts(validator: Validator, value: object) -> bool:
    return validator.violations({"f": value}) == ()


@pytest.mark.parametrize(
    ("field", "accepted", "refused"),
    [
        ({"type": "null"}, [None], [0, False]),
        ({"type": "boolean"}, [True, False], [0, "true", None]),
        ({"type": "boolean", "const": True}, [True], [False, 1]),
        ({"type": "integer"}, [0, -(2**63)], [1.5, "1", True]),
        ({"type": "integer", "minimum": 2, "maximum": 4, "default": 3}, [2, 4], [1, 5]),
        ({"type": "integer", "enum": [1, 3]}, [1, 3], [2]),
        ({"type": "integer", "const": 7}, [7], [8]),
        ({"type": "string"}, ["", "x"], [1, None]),
        ({"type": "string", "maxLength": 4}, ["éé", "abcd"], ["ééa", "abcde"]),
        ({"type": "string", "minLength": 3}, ["abc", "éa"], ["ab", "é"]),
        ({"type": "string", "maxGraphemes": 2}, ["e\u0301👨‍👩‍👧", "🇩🇪🇫🇷", "a\r\n"], ["abc", "🇩🇪🇫🇷🇮🇹"]),
        ({"type": "string", "minGraphemes": 2}, ["ab"], ["e\u0301", ""]),
        ({"type": "string", "enum": ["a", "b"]}, ["a"], ["c"]),
        ({"type": "string", "const": "a"}, ["a"], ["b"]),
        ({"type": "string", "knownValues": ["a"], "default": "a"}, ["a", "anything"], [1]),
        ({"type": "string", "format": "datetime"}, ["2024-01-01T00:00:00Z"], ["2024-01-01", ""]),
        ({"type": "string", "format": "did"}, ["did:plc:a"], ["alice.example"]),
        ({"type": "string", "format": "at-identifier"}, ["did:plc:a", "alice.example"], ["alice"]),
        ({"type": "string", "format": "language"}, ["de-CH"], ["german!"]),
        ({"type": "string", "format": "cid"}, [CID], ["Qm"]),
        ({"type": "array", "items": {"type": "integer"}}, [[], [1]], [["a"], {}]),
        (
            {"type": "array", "items": {"type": "integer"}, "minLength": 1, "maxLength": 2},
            [[1], [1, 2]],
            [[], [1, 2, 3]],
        ),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, [{}, {"a": None, "b": 1}], [{"a": 1}, [], "x"]),
        ({"type": "object", "required": ["a"], "properties": {"a": {"type": "null"}}}, [{"a": None}], [{}]),
        (
            {"type": "object", "nullable": ["a"], "properties": {"a": {"type": "integer"}}},
            [{"a": None}, {"a": 1}],
            [{"a": "x"}],
        ),
        ({"type": "unknown"}, [{}, {"a": [1]}], [[], "x", 1]),
        ({"type": "cid-link"}, [{"$link": CID}], [{}, {"$link": "x"}, {"$link": CID, "a": 1}, CID]),
        (
            {"type": "blob"},
            [{"$type": "blob", "ref": {"$link": CID}, "mimeType": "text/plain", "size": 0}],
            [{}, {"$type": "blob", "ref": {"$link": CID}, "mimeType": "x", "size": -1}, {"$type": "x"}],
        ),
    ],
)
def test_a_field_accepts_and_refuses_what_lexicon_defines(
    field: dict[str, Any], accepted: list[object], refused: list[object]
):
    validator = _validator(field)
    assert [value for value in accepted if not _accepts(validator, value)] == []
    assert [value for value in refused if _accepts(validator, value)] == []


@pytest.mark.parametrize(
    ("accept", "accepted", "refused"),
    [
        (["image/*"], ["image/png", "image/svg+xml"], ["video/mp4", "image/", "image/a/b", "ximage/png"]),
        (
            ["image/svg+xml", "video/mp4"],
            ["image/svg+xml", "video/mp4"],
            ["image/svgxml", "image/svgggxml", "video/mp4x"],
        ),
        (["*/*"], ["a/b"], ["a"]),
    ],
)
def test_a_blob_must_have_an_accepted_media_type_and_size(accept: list[str], accepted: list[str], refused: list[str]):
    validator = _validator({"type": "blob", "accept": accept, "maxSize": 10})

    def blob(mime_type: str, size: int = 10) -> dict[str, Any]:
        return {"$type": "blob", "ref": {"$link": CID}, "mimeType": mime_type, "size": size}

    assert [each for each in accepted if not _accepts(validator, blob(each))] == []
    assert [each for each in refused if _accepts(validator, blob(each))] == []
    assert not _accepts(validator, blob(accepted[0], 11))


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(0, 12), st.binary(max_size=14), st.booleans())
def test_length_limits_of_bytes_apply_to_the_decoded_bytes_padded_or_not(
    least: int, most: int, content: bytes, padded: bool
):
    validator = _validator({"type": "bytes", "minLength": least, "maxLength": most})
    text = base64.b64encode(content).decode()
    accepted = _accepts(validator, {"$bytes": text if padded else text.rstrip("=")})
    assert accepted == (least <= len(content) <= most)


@pytest.mark.parametrize("text", ["a", "ab==c", "=", "a===", "ab=", "a-b_", "ab\n", "éa=="])
def test_invalid_base64_is_refused_as_bytes(text: str):
    assert not _accepts(_validator({"type": "bytes"}), {"$bytes": text})


# References and unions

_TWO = {
    "lexicon": 1,
    "id": "com.example.defs",
    "defs": {
        "main": {"type": "object", "required": ["m"], "properties": {"m": {"type": "integer"}}},
        "tree": {
            "type": "object",
            "properties": {"next": {"type": "ref", "ref": "#tree"}, "n": {"type": "ref", "ref": "com.example.defs"}},
        },
    },
}
_OTHERS: dict[str, object] = {"com.example.defs": _TWO}


def test_a_reference_resolves_to_a_definition_in_the_same_or_another_document():
    here = _validator({"type": "ref", "ref": "#small"}, small={"type": "integer", "maximum": 3})
    assert _accepts(here, 3)
    assert not _accepts(here, 4)
    there = _validator({"type": "ref", "ref": "com.example.defs#tree"}, _OTHERS)
    assert _accepts(there, {"next": {"next": {"n": {"m": 1}}}})
    assert not _accepts(there, {"next": {"next": {"n": {"m": "x"}}}})


@pytest.mark.parametrize("closed", [True, False])
def test_a_union_accepts_listed_types_and_if_open_unlisted_ones_too(closed: bool):
    field = {"type": "union", "refs": ["#small", "com.example.defs", "com.example.defs#tree"], "closed": closed}
    small = {"type": "object", "required": ["s"], "properties": {"s": {"type": "integer"}}}
    union = _validator(field, _OTHERS, small=small)
    assert _accepts(union, {"$type": "com.example.thing#small", "s": 1})
    assert not _accepts(union, {"$type": "com.example.thing#small", "s": "x"})
    assert not _accepts(union, {"$type": "com.example.thing#small"})
    assert _accepts(union, {"$type": "com.example.defs", "m": 1})
    assert not _accepts(union, {"$type": "com.example.defs", "m": "x"})
    assert not _accepts(union, {"$type": "com.example.defs#tree", "next": 1})
    assert _accepts(union, {"$type": "com.example.new"}) == (not closed)
    assert not _accepts(union, {"s": 1})
    assert not _accepts(union, "x")


@pytest.mark.parametrize("closed", [False, True])
def test_a_union_value_without_a_type_gets_only_that_violation(closed: bool):
    small = {"type": "object", "required": ["s"], "properties": {"s": {"type": "string"}}}
    union = _validator({"type": "union", "refs": ["#small"], "closed": closed}, small=small)
    assert [(each.pointer, each.rule, each.message) for each in union.violations({"f": {}})] == [
        ("/f", "required", "must have the member '$type'")
    ]


def test_an_open_union_without_refs_accepts_any_typed_object():
    union = _validator({"type": "union", "refs": []})
    assert _accepts(union, {"$type": "com.example.any"})
    assert not _accepts(union, {})


# Refused documents


def _nested(levels: int) -> dict[str, Any]:
    return {"type": "array", "items": _nested(levels - 1) if levels else {"type": "string"}}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"lexicon": 2, "id": NAME, "defs": {}}, "version 1"),
        ({"lexicon": True, "id": NAME, "defs": {}}, "version 1"),
        ({"lexicon": 1, "id": "com.example.other", "defs": {}}, "listed as com.example.thing"),
        ({"lexicon": 1, "id": NAME}, "/defs is not an object"),
        ({"lexicon": 1, "id": NAME, "defs": {"main": {"type": "query"}}}, "defines no record"),
        (
            {"lexicon": 1, "id": NAME, "defs": {"main": {"type": "record", "record": {"type": "string"}}}},
            "is not an object definition",
        ),
        (
            {"lexicon": 1, "id": NAME, "defs": {"main": {"type": "record"}, "record": {"type": "record"}}},
            "defines two records",
        ),
        (_lexicon({"type": "token"}), "'token', which cannot be expressed"),
        (_lexicon({"type": "subscription"}), "'subscription', which cannot be expressed"),
        (_lexicon({"type": ["string"]}), "cannot be expressed"),
        (_lexicon("string"), "cannot be expressed"),
        (_lexicon({"type": "array"}), "/properties/f/items has the type None"),
        (_lexicon({"type": "string", "pattern": "x"}), "/properties/f/pattern cannot be expressed"),
        (_lexicon({"type": "string", "format": "email"}), "'email' is not a format"),
        (_lexicon({"type": "string", "format": "date-time"}), "'date-time' is not a format"),
        (_lexicon({"type": "integer", "multipleOf": 2}), "/multipleOf cannot be expressed"),
        (_lexicon({"type": "object", "required": ["x"]}), "'x', which is not among its properties"),
        (_lexicon({"type": "object", "nullable": ["x"], "properties": {}}), "'x', which is not among its properties"),
        (_lexicon({"type": "object", "required": "x"}), "arrays of names"),
        (_lexicon({"type": "bytes", "maxLength": -1}), "/maxLength is not a whole number"),
        (_lexicon({"type": "bytes", "minLength": "1"}), "/minLength is not a whole number"),
        (_lexicon({"type": "blob", "accept": ["image"]}), "array of media types"),
        (_lexicon({"type": "blob", "accept": [".*|x"]}), "array of media types"),
        (_lexicon({"type": "ref", "ref": "#gone"}), "'#gone' is not in the catalogue"),
        (_lexicon({"type": "ref", "ref": "com.example.gone"}), "is not in the catalogue"),
        (_lexicon({"type": "ref", "ref": "https://example.com/x"}), "is not a reference"),
        (_lexicon({"type": "ref", "ref": 1}), "is not a reference"),
        (_lexicon({"type": "union", "refs": "#a"}), "needs refs as an array"),
        (_lexicon({"type": "union", "refs": ["#gone"], "closed": True}), "'#gone' is not in the catalogue"),
        (_lexicon({"type": "ref", "ref": "#t"}, t={"type": "token"}), "'token', which cannot be expressed"),
        (_lexicon({"type": "ref", "ref": "#loop"}, loop={"type": "ref", "ref": "#loop"}), "leads back to itself"),
        (_lexicon(_nested(600)), "nests more than 64 fields"),
        (_lexicon({"type": "string", "maxLength": -1}), "whole number"),
        (_lexicon({"type": "integer", "minimum": "x"}), "is not a number"),
    ],
)
def test_an_inexpressible_lexicon_is_refused_with_the_reason(document: dict[str, Any], reason: str):
    with pytest.raises(SchemaRefused, match=reason):
        compile_validator(translate(document, NAME, {}))


def test_every_problem_of_a_document_is_reported():
    with pytest.raises(SchemaRefused) as refused:
        translate(_lexicon({"type": "object", "properties": {"a": {"type": "x"}, "b": {"type": "y"}}}), NAME, {})
    assert len(refused.value.reasons) == 2


def test_a_record_may_be_the_definition_main_or_record_or_a_plain_object():
    for defs in (
        {
            "main": {
                "type": "record",
                "record": {"type": "object", "required": ["a"], "properties": {"a": {"type": "null"}}},
            }
        },
        {
            "record": {
                "type": "record",
                "record": {"type": "object", "required": ["a"], "properties": {"a": {"type": "null"}}},
            }
        },
        {"record": {"type": "object", "required": ["a"], "properties": {"a": {"type": "null"}}}},
    ):
        validator = compile_validator(translate({"lexicon": 1, "id": NAME, "defs": defs}, NAME, {}))
        assert validator.violations({}) != ()
        assert validator.violations({"a": None}) == ()


def test_a_json_schema_is_not_taken_for_a_lexicon():
    assert is_lexicon({"lexicon": 2})
    assert not is_lexicon({"type": "object"})
    assert not is_lexicon(True)


# The bundled post and its Lexicon form

_texts = st.one_of(
    st.text(max_size=20), st.sampled_from(["é" * 1024, "é" * 1025, "a" * 2048, "a" * 2049, "😀" * 512, "😀" * 513])
)
_posts = st.fixed_dictionaries(
    {},
    optional={
        "text": st.one_of(_texts, st.none(), st.integers()),
        "createdAt": st.sampled_from(["2024-01-01T00:00:00Z", "2024-01-01", 5, "2024-02-30T00:00:00Z"]),
        "authorDid": st.sampled_from(["did:plc:a", "did:", 1]),
        "extra": st.integers(),
    },
)


@settings(deadline=None)
@given(_posts)
def test_the_lexicon_post_validates_like_the_bundled_schema_except_for_the_unit_of_length(post: dict[str, Any]):
    ours = {(each.pointer, each.rule) for each in _POST.violations(post)} - {("/text", "maxBytes")}
    theirs = {(each.pointer, each.rule) for each in _BUNDLED.violations(post)} - {("/text", "maxLength")}
    assert ours == theirs
    text = post.get("text")
    if isinstance(text, str):
        too_many_bytes = ("/text", "maxBytes") in {(each.pointer, each.rule) for each in _POST.violations(post)}
        assert too_many_bytes == (len(text.encode()) > 2048)


_POST_NAME = Nsid("com.registryaccord.feed.post")
_POST = compile_validator(translate(POST, _POST_NAME, {}))
_BUNDLED = bundled_catalogue().collection(_POST_NAME).versions["1.0.0"]


# In a catalogue


def _catalogue(defs_document: dict[str, Any]):
    thing = _lexicon({"type": "ref", "ref": "com.example.defs#tree"})
    index = read_index(index_bytes(entry(NAME, ["1.0.0"]), lexicons=[{"id": "com.example.defs"}]))
    documents = {
        "com.example.thing/1.0.0.json": json.dumps(thing).encode(),
        "com.example.defs.json": json.dumps(defs_document).encode(),
    }
    return build_catalogue(index, documents)


def test_a_catalogue_resolves_references_between_its_lexicons():
    schema = _catalogue(_TWO).collection(NAME).versions["1.0.0"]
    assert schema.violations({"f": {"n": {"m": 1}}}) == ()
    assert schema.violations({"f": {"n": {"m": "x"}}}) != ()


def test_a_catalogue_with_an_unresolved_lexicon_reference_is_refused():
    with pytest.raises(
        CatalogueRefused, match=r"com\.example\.thing/1\.0\.0\.json: .*'com.example.defs#tree' is not in the catalogue"
    ):
        _catalogue({"lexicon": 1, "id": "com.example.defs", "defs": {}})


def test_a_lexicon_may_reference_the_record_of_another_collection():
    other = {
        "lexicon": 1,
        "id": "com.example.other",
        "defs": {"main": {"type": "record", "record": {"type": "object"}}},
    }
    index = read_index(
        index_bytes(entry(NAME, ["1.0.0"]), entry("com.example.other", ["1.0.0", "1.1.0"], latest="1.1.0"))
    )
    documents = {document.path: json.dumps(other).encode() for document in index.documents()}
    documents["com.example.thing/1.0.0.json"] = json.dumps(
        _lexicon({"type": "ref", "ref": "com.example.other"})
    ).encode()
    catalogue = build_catalogue(index, documents)
    assert catalogue.collection(NAME).versions["1.0.0"].violations({"f": 1}) != ()
