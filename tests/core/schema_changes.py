"""Pairs of schemas: the second is the first with a few changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from tests.core.schema_strategies import names, nodes, numbers, patterns, values

_SIZES = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]
_LOOSER_OR_TIGHTER: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(_SIZES, st.integers(0, 5)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), numbers),
    "multipleOf": st.sampled_from([1, 2, 3, 4, 6, 0.5, 0.25]),
    "uniqueItems": st.booleans(),
    "pattern": patterns,
    "type": st.lists(st.sampled_from(_TYPES), min_size=1, unique=True),
    "enum": st.lists(values, min_size=1, max_size=3),
    "required": st.lists(names, max_size=3, unique=True),
    "additionalProperties": nodes,
    "properties": st.dictionaries(names, nodes, max_size=2),
    "patternProperties": st.dictionaries(patterns, nodes, max_size=2),
    "items": nodes,
    "not": nodes,
    "anyOf": st.lists(nodes, min_size=1, max_size=3),
    "dependencies": st.dictionaries(names, nodes, max_size=2),
}  # fmt: skip


def _objects(schema: object) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for member in schema.values():
            yield from _objects(member)
    elif isinstance(schema, list):
        for element in schema:
            yield from _objects(element)


def _change(draw: st.DrawFn, schema: dict[str, Any]) -> None:
    kind = draw(st.sampled_from(["drop", "set", "set", "member", "alternative", "order"]))
    if kind == "drop" and schema:
        schema.pop(draw(st.sampled_from(sorted(schema))))
    elif kind == "member" and isinstance(schema.get("properties"), dict):
        schema["properties"][draw(names)] = draw(nodes)
    elif kind == "alternative" and isinstance(schema.get("anyOf"), list):
        schema["anyOf"].insert(0, draw(nodes))
    elif kind == "order":
        for name in sorted(schema, reverse=True):
            schema[name] = schema.pop(name)
    else:
        keyword = draw(st.sampled_from(sorted(_LOOSER_OR_TIGHTER)))
        schema[keyword] = draw(_LOOSER_OR_TIGHTER[keyword])


@st.composite
def changed(draw: st.DrawFn, schemas: st.SearchStrategy[Any]) -> tuple[Any, Any]:
    """Draw a schema and a changed version of it. Some changed versions are invalid and are refused at load."""
    old = draw(schemas)
    new = copy.deepcopy(old)
    for _ in range(draw(st.integers(0, 2))):
        places = list(_objects(new))
        if places:
            _change(draw, draw(st.sampled_from(places)))
    return old, new
