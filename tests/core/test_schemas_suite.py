"""The JSON Schema Test Suite for draft-07: accepted schemas pass all their cases, all others are refused at load.

The suite is not part of this repository. It comes with the source archive of the Python package jsonschema, in
`json/tests`: set CDV_TEST_JSON_SCHEMA_SUITE to that folder. Without it, tests/core/test_schemas_cases.py covers each
keyword.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cdv_core.domain.catalogue_documents import parse_document
from cdv_core.domain.json_schema import SchemaRefused
from cdv_core.domain.validators import compile_validator
from cdv_core.domain.violations import find_violations

# Every deviation, by its error message. docs/schemas.md describes them.
REFUSED: dict[str, list[tuple[str, str]]] = {
    "leads out of the document": [
        ("definitions.json", "validate definition against metaschema"),
        ("ref.json", "$ref prevents a sibling $id from changing the base uri"),
        ("ref.json", "remote ref, containing refs itself"),
        ("ref.json", "Recursive references between schemas"),
        ("ref.json", "Reference an anchor with a non-relative URI"),
        ("ref.json", "Location-independent identifier with base URI change in subschema"),
        ("ref.json", "refs with relative uris and defs"),
        ("ref.json", "relative refs with absolute uris and defs"),
        ("ref.json", "$id must be resolved against nearest parent, not just immediate parent"),
        ("ref.json", "simple URN base URI with $ref via the URN"),
        ("ref.json", "URN base URI with URN and JSON pointer ref"),
        ("ref.json", "URN base URI with URN and anchor ref"),
        ("ref.json", "ref to if"),
        ("ref.json", "ref to then"),
        ("ref.json", "ref to else"),
        ("ref.json", "ref with absolute-path-reference"),
        ("refRemote.json", "remote ref"),
        ("refRemote.json", "fragment within remote ref"),
        ("refRemote.json", "ref within remote ref"),
        ("refRemote.json", "base URI change"),
        ("refRemote.json", "base URI change - change folder"),
        ("refRemote.json", "base URI change - change folder in subschema"),
        ("refRemote.json", "root ref in remote ref"),
        ("refRemote.json", "remote ref with ref to definitions"),
        ("refRemote.json", "Location-independent identifier in remote ref"),
        ("refRemote.json", "retrieved nested refs resolve relative to their URI not $id"),
        ("refRemote.json", "$ref to $ref finds location-independent $id"),
    ],
    "an escape that is not one": [
        ("ecmascript-regex.json", "patterns always use unicode semantics with pattern"),
        ("ecmascript-regex.json", "pattern with non-ASCII digits"),
        ("ecmascript-regex.json", "patterns always use unicode semantics with patternProperties"),
        ("ecmascript-regex.json", "patternProperties with non-ASCII digits"),
    ],
    "is not a format": [
        ("format.json", "email format"),
        ("format.json", "idn-email format"),
        ("format.json", "regex format"),
        ("format.json", "idn-hostname format"),
        ("format.json", "hostname format"),
        ("format.json", "time format"),
        ("format.json", "json-pointer format"),
        ("format.json", "relative-json-pointer format"),
        ("format.json", "iri format"),
        ("format.json", "iri-reference format"),
        ("format.json", "uri-reference format"),
        ("format.json", "uri-template format"),
    ],
    "more than 8 decimals": [
        ("multipleOf.json", "float division = inf"),
    ],
    "at the root only": [
        ("ref.json", "Location-independent identifier"),
    ],
}
_REASONS = {group: reason for reason, groups in REFUSED.items() for group in groups}


# Of the optional parts: regular expressions, and the formats that this vault knows or refuses.
_OPTIONAL = (
    "ecmascript-regex",
    "non-bmp-regex",
    *(f"format/{name}" for name in ("date-time", "date", "ipv4", "ipv6", "uri")),
)


def _groups() -> list[Any]:
    given = os.environ.get("CDV_TEST_JSON_SCHEMA_SUITE")
    if given is None:
        why = "CDV_TEST_JSON_SCHEMA_SUITE names no folder with the suite"
        return [pytest.param("", {}, marks=pytest.mark.skip(reason=why), id="suite")]
    folder = Path(given) / "draft7"
    groups = []
    for path in [*sorted(folder.glob("*.json")), *(folder / "optional" / f"{name}.json" for name in _OPTIONAL)]:
        listed: Any = parse_document(path.read_bytes())
        groups += [pytest.param(path.name, group, id=f"{path.stem}-{group['description']}") for group in listed]
    assert len(groups) > 250, f"{given} is not the suite"
    return groups


@pytest.mark.parametrize(("file", "group"), _groups())
def test_a_group_of_the_suite_passes_or_is_refused_at_load(file: str, group: dict[str, Any]):
    reason = _REASONS.get((file, group["description"]))
    if reason is not None:
        with pytest.raises(SchemaRefused, match=reason):
            compile_validator(group["schema"])
        return
    validator = compile_validator(group["schema"])
    for case in group["tests"]:
        assert (validator.violations(case["data"]) == ()) == case["valid"], case["description"]
        # The generated validator and the search for violations must agree.
        assert (find_violations(validator.document, case["data"]) == ()) == case["valid"], case["description"]
