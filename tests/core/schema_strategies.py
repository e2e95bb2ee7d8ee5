"""Strategies for schemas and values, from small vocabularies so that values often match."""

from __future__ import annotations

from hypothesis import strategies as st

NAMES = ["a", "b", "c", "a-b", "ab", "item", "missing", "x y", 'q"\\', "{data}", "", "é", "0", "$ref", "key"]
names = st.sampled_from(NAMES)
numbers = st.one_of(
    st.integers(-20, 20),
    st.sampled_from([0.5, -0.5, 1.5, 2.25, 0.1, 0.3, 19.01, 2**53, -(2**63), 2**63 - 1, 1e-7, 3.7]),
)
texts = st.one_of(
    st.sampled_from(["", "a", "ab", "abc", "xyz", "1", "é", "😀", "a\nb", "did:a:b", "\u00a0"]),
    st.text("ab1 é", max_size=6),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(names, texts), inner, max_size=4)),
    max_leaves=12,
)

# On every text above, Python's engine and RE2 agree about these (they would differ on a final newline).
patterns = st.sampled_from(["^a", "b$", "^[ab]*$", "a.c", "^(a|b){1,3}$", "[0-9]+", "^$", "^.{2}$", "a+b?", "1"])
_sizes = st.integers(0, 4)
_types = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])


_ASSERTIONS: dict[str, st.SearchStrategy[object]] = {
    "type": st.one_of(_types, st.lists(_types, min_size=1, max_size=3, unique=True)),
    "enum": st.lists(values, min_size=1, max_size=3),
    "const": values,
    "minLength": _sizes,
    "maxLength": _sizes,
    "pattern": patterns,
    "minimum": numbers,
    "maximum": numbers,
    "exclusiveMinimum": numbers,
    "exclusiveMaximum": numbers,
    "multipleOf": st.sampled_from([1, 2, 3, 7, 0.5, 0.25, 1.5]),
    "minItems": _sizes,
    "maxItems": _sizes,
    "uniqueItems": st.booleans(),
    "minProperties": _sizes,
    "maxProperties": _sizes,
    "required": st.lists(names, max_size=3, unique=True),
    "title": st.text(max_size=5),
    "default": values,
}


@st.composite
def _few(draw: st.DrawFn, keywords: dict[str, st.SearchStrategy[object]], most: int) -> dict[str, object]:
    """Draw a schema of some of the keywords: with all of them at once it would accept nothing."""
    chosen = draw(st.lists(st.sampled_from(sorted(keywords)), max_size=most, unique=True))
    return {name: draw(keywords[name]) for name in chosen}


def _applicators(inner: st.SearchStrategy[object]) -> dict[str, st.SearchStrategy[object]]:
    several = st.lists(inner, min_size=1, max_size=3)
    return {
        "properties": st.dictionaries(names, inner, max_size=3),
        "patternProperties": st.dictionaries(patterns, inner, max_size=2),
        "additionalProperties": inner,
        "propertyNames": inner,
        "dependencies": st.dictionaries(names, st.one_of(inner, st.lists(names, max_size=2, unique=True)), max_size=2),
        "items": st.one_of(inner, st.lists(inner, max_size=3)),
        "additionalItems": inner,
        "contains": inner,
        "allOf": several,
        "anyOf": several,
        "oneOf": several,
        "not": inner,
        "if": inner,
        "then": inner,
        "else": inner,
    }


def _extend(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.tuples(_few(_ASSERTIONS, 2), _few(_applicators(inner), 4)).map(
        lambda pair: _without_unused(pair[0] | pair[1])
    )


def _without_unused(schema: dict[str, object]) -> dict[str, object]:
    """Drop keywords without effect that the reference still follows, into endless recursion or an error."""
    if not {"then", "else"} & schema.keys():
        schema.pop("if", None)
    if not isinstance(schema.get("items"), list):
        schema.pop("additionalItems", None)
    return schema


refs = st.sampled_from(["#", "#/definitions/one", "#/definitions/two", "#/definitions/one/properties/a"])
nodes = st.recursive(
    st.one_of(_few(_ASSERTIONS, 3), _few(_ASSERTIONS, 1), st.booleans(), st.builds(lambda ref: {"$ref": ref}, refs)),
    _extend,
    max_leaves=8,
)


def _with_definitions(root: object, one: object, two: object) -> object:
    if not isinstance(root, dict):
        return root
    return {**root, "definitions": {"one": {"properties": {"a": one}}, "two": two}}


schemas = st.builds(_with_definitions, nodes, nodes, nodes)
