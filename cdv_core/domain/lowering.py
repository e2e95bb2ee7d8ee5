"""Lowering: rewrite a schema in normal form to the subset of JSON Schema that the code generator handles correctly.

The generator's input has generated names for references, patterns and string checks, no annotations, and none of the
keywords whose generated code is slow, unsafe or wrong. A comment at each rewriting gives the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cdv_core.domain.formats import FORMATS
from cdv_core.domain.graphemes import count_graphemes
from cdv_core.domain.json_schema import ONE_SCHEMA, SchemaDocument, SchemaNode
from cdv_core.domain.patterns import Pattern, compile_pattern

StringCheck = Callable[[str], bool]

# Python allows 20 nested blocks, and one schema takes up to four: deeper schemas become separate functions.
_BLOCK_NESTING_MAX: Final = 3

# Keywords that the generator translates one to one.
_KEPT: Final = (
    "type", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf", "minItems",
    "maxItems", "uniqueItems", "minProperties", "maxProperties",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lowered:
    """The generator's input, and the checks and patterns that it refers to by name."""

    schema: dict[str, Any]
    checks: dict[str, StringCheck] = field(default_factory=dict)
    patterns: dict[str, Pattern] = field(default_factory=dict)


def lower(document: SchemaDocument) -> Lowered:
    """Return `document` rewritten; it accepts exactly the same values."""
    return _Lowering(document).run()


class _Lowering:
    def __init__(self, document: SchemaDocument) -> None:
        self._document = document
        self._result = Lowered({})
        self._definitions: dict[str, SchemaNode] = {}
        self._names: dict[int, str] = {}  # id of a node that became a function -> its name
        self._waiting: list[tuple[str, SchemaNode]] = []

    def run(self) -> Lowered:
        root = self._node(self._document.root, 0)
        while self._waiting:
            name, node = self._waiting.pop()
            self._definitions[name] = self._node(node, 0)
        self._result.schema.update({"allOf": [root]} if isinstance(root, bool) else root)
        self._result.schema["definitions"] = self._definitions
        return self._result

    def _node(self, node: SchemaNode, depth: int) -> SchemaNode:
        if isinstance(node, bool):
            return node
        if "$ref" in node:
            target = self._document.resolve(node)
            return target if isinstance(target, bool) else self._function(target)
        if depth > _BLOCK_NESTING_MAX:
            return self._function(node)
        lowered: dict[str, Any] = {name: node[name] for name in _KEPT if name in node}
        for name in ONE_SCHEMA:
            if name in node:
                lowered[name] = self._node(node[name], depth + 1)
        if "items" in node:
            items = node["items"]
            lowered["items"] = self._list(items, depth) if isinstance(items, list) else self._node(items, depth + 1)
        for name in ("allOf", "anyOf", "oneOf"):
            if name in node:
                lowered[name] = self._list(node[name], depth)
        self._members(node, lowered, depth)
        self._strings(node, lowered)
        return lowered

    def _list(self, nodes: list[SchemaNode], depth: int) -> list[SchemaNode]:
        return [self._node(it, depth + 1) for it in nodes]

    def _function(self, node: dict[str, Any]) -> dict[str, Any]:
        name = self._names.get(id(node))
        if name is None:
            name = self._names[id(node)] = f"d{len(self._names)}"
            self._waiting.append((name, node))
        return {"$ref": f"#/definitions/{name}"}

    def _members(self, node: dict[str, Any], lowered: dict[str, Any], depth: int) -> None:
        if "properties" in node:
            lowered["properties"] = {key: self._node(part, depth + 1) for key, part in node["properties"].items()}
        if "patternProperties" in node:
            # Replaced by names: the generator would match patterns with Python's re, which can backtrack.
            named = [(self._pattern(text), part) for text, part in node["patternProperties"].items()]
            lowered["patternProperties"] = {name: self._node(part, depth + 1) for name, part in named}
        if "dependencies" in node:
            dependencies = node["dependencies"].items()
            lowered["dependencies"] = {
                key: needed if isinstance(needed, list) else self._node(needed, depth + 1)
                for key, needed in dependencies
            }
        if "required" in node and "additionalProperties" in node:
            # Kept apart: beside additionalProperties the generator refuses a schema that it considers unsatisfiable.
            lowered.setdefault("allOf", []).append({"required": node["required"]})
        elif "required" in node:
            lowered["required"] = node["required"]

    def _strings(self, node: dict[str, Any], lowered: dict[str, Any]) -> None:
        checks = _string_checks(node)
        # As an enum: the generator cannot translate `const` without error messages.
        for values in ([node["const"]] if "const" in node else None, node.get("enum")):
            if values is not None and all(isinstance(value, str) for value in values):
                # As a set lookup: the generator would compare one by one.
                lowered.setdefault("allOf", []).append({"type": ["string"]})
                checks.append(frozenset(values).__contains__)
            elif values is not None:
                lowered.setdefault("allOf", []).append({"enum": values})
        if checks:
            name = f"f{len(self._result.checks)}"
            self._result.checks[name] = checks[0] if len(checks) == 1 else _all_of(checks)
            lowered["format"] = name

    def _pattern(self, text: str) -> str:
        name = f"p{len(self._result.patterns)}"
        self._result.patterns[name] = compile_pattern(text)
        return name


def _string_checks(node: dict[str, Any]) -> list[StringCheck]:
    """Return the checks that the generator lacks or does not do well, cheapest first."""
    checks: list[StringCheck] = []
    for name, measure in MEASURES.items():
        if f"min{name}" in node or f"max{name}" in node:
            checks.append(_length(measure, node.get(f"min{name}", 0), node.get(f"max{name}")))
    if "format" in node:
        checks.append(FORMATS[node["format"]])
    if "pattern" in node:
        checks.append(compile_pattern(node["pattern"]).search)
    return checks


def count_bytes(text: str) -> int:
    """Return the length of `text` in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode())


MEASURES: Final[dict[str, Callable[[str], int]]] = {"Bytes": count_bytes, "Graphemes": count_graphemes}


def _length(measure: Callable[[str], int], minimum: int, maximum: int | None) -> StringCheck:
    return lambda text: minimum <= (length := measure(text)) and (maximum is None or length <= maximum)


def _all_of(checks: list[StringCheck]) -> StringCheck:
    return lambda text: all(check(text) for check in checks)
