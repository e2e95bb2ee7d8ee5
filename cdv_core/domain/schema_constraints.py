"""Constraints: what a schema's keywords guarantee about every value that is valid against it.

Used to prove that one schema implies another (cdv_core/domain/implication.py). `nodes` are schemas in normal form
that a value satisfies all at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from cdv_core.domain.json_schema import SchemaNode
from cdv_core.domain.violations import exact

Node = dict[str, Any]

_LOWER_BOUNDS: Final = ("minLength", "minBytes", "minGraphemes", "minItems", "minProperties")
_UPPER_BOUNDS: Final = ("maxLength", "maxBytes", "maxGraphemes", "maxItems", "maxProperties")
_ALL_TYPES: Final = frozenset({"null", "boolean", "number", "string", "array", "object"})


def operands(nodes: Iterable[Node], *keywords: str) -> list[Any]:
    """Return the values that `nodes` give to any of `keywords`."""
    return [node[keyword] for node in nodes for keyword in keywords if keyword in node]


def widened(types: Iterable[str]) -> frozenset[str]:
    """Return `types` with "integer" replaced by "number", of which it is a part."""
    return frozenset("number" if name == "integer" else name for name in types)


def types_of(nodes: Iterable[Node]) -> frozenset[str]:
    """Return the types that a value valid against all of `nodes` can have; integers count as numbers."""
    types = _ALL_TYPES
    for node in nodes:
        if "type" in node:
            types &= widened(node["type"])
    return types


def is_integral(nodes: Iterable[Node]) -> bool:
    """Return whether every number valid against all of `nodes` is an integer."""
    return any(
        ("type" in node and "number" not in node["type"]) or exact(node.get("multipleOf", 0.5)).denominator == 1
        for node in nodes
    )


def finite_values(nodes: Iterable[Node]) -> list[object] | None:
    """Return the only values that can be valid if `const` or `enum` lists them, else None."""
    for node in nodes:
        if "const" in node:
            return [node["const"]]
        if "enum" in node:
            return list(node["enum"])
    return None


def bound_holds(keyword: str, operand: Any, nodes: list[Node]) -> bool:  # noqa: ANN401 - whatever the keyword takes
    """Return whether `nodes` imply `keyword` with `operand`.

    For keywords that bound a number or a size, and for those that must be present with an equal operand.
    """
    given = operands(nodes, keyword)
    match keyword:
        case _ if keyword in _LOWER_BOUNDS:
            return any(bound >= operand for bound in given)
        case _ if keyword in _UPPER_BOUNDS:
            return any(bound <= operand for bound in given)
        case "minimum":
            return any(bound >= operand for bound in operands(nodes, "minimum", "exclusiveMinimum"))
        case "maximum":
            return any(bound <= operand for bound in operands(nodes, "maximum", "exclusiveMaximum"))
        case "exclusiveMinimum":
            return any(bound >= operand for bound in given) or any(
                bound > operand for bound in operands(nodes, "minimum")
            )
        case "exclusiveMaximum":
            return any(bound <= operand for bound in given) or any(
                bound < operand for bound in operands(nodes, "maximum")
            )
        case "multipleOf":
            divisors = [*given, *([1] if is_integral(nodes) else [])]
            return any((exact(divisor) / exact(operand)).denominator == 1 for divisor in divisors)
    return operand in given  # pattern, format, uniqueItems


def item_schema(node: Node, index: int) -> SchemaNode:
    """Return the schema that `node` applies to the item at `index`."""
    items: SchemaNode | list[SchemaNode] = node.get("items", True)
    if not isinstance(items, list):
        return items
    additional: SchemaNode = node.get("additionalItems", True)
    return items[index] if index < len(items) else additional


def member_schemas(nodes: Iterable[Node], name: str) -> list[SchemaNode]:
    """Return the schemas that `nodes` certainly apply to the member `name`; those of patterns are left out."""
    schemas: list[SchemaNode] = []
    for node in nodes:
        if name in node.get("properties", {}):
            schemas.append(node["properties"][name])
        elif "patternProperties" not in node:
            schemas.append(node.get("additionalProperties", True))
    return schemas


def additional_member_schemas(nodes: Iterable[Node], patterns: dict[str, SchemaNode]) -> list[SchemaNode]:
    """Return the schemas that `nodes` apply to a member that they do not name and that no pattern matches.

    `patterns`: those of the new schema. A node with other patterns is left out: one of them might match.
    """
    return [
        node.get("additionalProperties", True)
        for node in nodes
        if node.get("patternProperties", {}).keys() <= patterns.keys()
    ]
