"""Facts: what a schema's keywords say for certain about a value that fits it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from cdv_core.domain.json_schema import SchemaNode
from cdv_core.domain.violations import exact

Node = dict[str, Any]

_LEAST: Final = ("minLength", "minBytes", "minGraphemes", "minItems", "minProperties")
_MOST: Final = ("maxLength", "maxBytes", "maxGraphemes", "maxItems", "maxProperties")
_ALL_TYPES: Final = frozenset({"null", "boolean", "number", "string", "array", "object"})


def operands(nodes: Iterable[Node], *keywords: str) -> list[Any]:
    return [node[it] for node in nodes for it in keywords if it in node]


def widened(types: Iterable[str]) -> frozenset[str]:
    return frozenset("number" if it == "integer" else it for it in types)


def types_of(nodes: Iterable[Node]) -> frozenset[str]:
    """Return the types that a value fitting all of `nodes` may have, integers among the numbers."""
    types = _ALL_TYPES
    for node in nodes:
        if "type" in node:
            types &= widened(node["type"])
    return types


def is_integral(nodes: Iterable[Node]) -> bool:
    """Whether a number that fits all of `nodes` must be an integer."""
    return any(
        ("type" in node and "number" not in node["type"]) or exact(node.get("multipleOf", 0.5)).denominator == 1
        for node in nodes
    )


def finite_values(nodes: Iterable[Node]) -> list[object] | None:
    """Return the only values that can fit, if they are listed."""
    for node in nodes:
        if "const" in node:
            return [node["const"]]
        if "enum" in node:
            return list(node["enum"])
    return None


def bound_holds(keyword: str, operand: Any, nodes: list[Node]) -> bool:  # noqa: ANN401 - whatever the keyword takes
    """Whether a keyword that limits one number, or that has to be there as it is, follows from `nodes`."""
    before = operands(nodes, keyword)
    match keyword:
        case _ if keyword in _LEAST:
            return any(it >= operand for it in before)
        case _ if keyword in _MOST:
            return any(it <= operand for it in before)
        case "minimum":
            return any(it >= operand for it in operands(nodes, "minimum", "exclusiveMinimum"))
        case "maximum":
            return any(it <= operand for it in operands(nodes, "maximum", "exclusiveMaximum"))
        case "exclusiveMinimum":
            return any(it >= operand for it in before) or any(it > operand for it in operands(nodes, "minimum"))
        case "exclusiveMaximum":
            return any(it <= operand for it in before) or any(it < operand for it in operands(nodes, "maximum"))
        case "multipleOf":
            steps = [*before, *([1] if is_integral(nodes) else [])]
            return any((exact(it) / exact(operand)).denominator == 1 for it in steps)
    return operand in before  # pattern, format, uniqueItems


def item_demand(node: Node, place: int) -> SchemaNode:
    """Return what `node` demands of the item at `place`."""
    items: SchemaNode | list[SchemaNode] = node.get("items", True)
    if not isinstance(items, list):
        return items
    beyond: SchemaNode = node.get("additionalItems", True)
    return items[place] if place < len(items) else beyond


def member_demands(nodes: Iterable[Node], name: str) -> list[SchemaNode]:
    """Return what `nodes` demand of the member `name`. Where patterns may apply too, only what is sure."""
    demands: list[SchemaNode] = []
    for node in nodes:
        if name in node.get("properties", {}):
            demands.append(node["properties"][name])
        elif "patternProperties" not in node:
            demands.append(node.get("additionalProperties", True))
    return demands


def unnamed_demands(nodes: Iterable[Node], patterns: dict[str, SchemaNode]) -> list[SchemaNode]:
    """Return what `nodes` demand of a member that neither they name nor `patterns` of the new schema match."""
    return [
        it.get("additionalProperties", True)
        for it in nodes
        if it.get("patternProperties", {}).keys() <= patterns.keys()
    ]
