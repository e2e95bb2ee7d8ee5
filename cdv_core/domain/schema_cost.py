"""Schema cost: an upper bound on the work of validating one value within a record, for any record.

A record has at most RECORD_MAX_BYTES, so a bound on the work per value bounds the work of validating the record.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Any, Final

from cdv_core.domain.json_schema import ASSERTIONS, SchemaDocument, SchemaNode, SchemaRefused
from cdv_core.domain.limits import RECORD_NESTING_MAX
from cdv_core.domain.patterns import compile_pattern

STEPS_MAX: Final = 250  # ours: nested schema applications take a few stack frames each; Python allows a thousand
COST_MAX: Final = 1_000  # ours: at worst some seconds for the largest record; microseconds with ordinary schemas
_ASSERTION_COST: Final = 4  # ours: in units of one pattern instruction applied to each byte of a small value


def check_cost(document: SchemaDocument) -> None:
    """Raises SchemaRefused: a `$ref` refers to itself at the same value, or validation may go too deep or too long."""
    if not document.refs and sum(map(_own_cost, _nodes(document.root))) <= COST_MAX:
        return  # even the sum over all schemas is within the limit
    cost = _Cost(document)
    try:
        for node in [document.root, *document.refs.values()]:
            cost.refuse_loops(node, ())
        steps = cost.steps(document.root, RECORD_NESTING_MAX)
    except RecursionError:
        steps = STEPS_MAX + 1
    if steps > STEPS_MAX:
        raise SchemaRefused([f"the document applies more than {STEPS_MAX} schemas, one within the other"])
    # At the first depth where no schema applies, none applies deeper either.
    costs = takewhile(bool, (cost.at(document.root, depth) for depth in range(RECORD_NESTING_MAX + 1)))
    worst = max(costs, default=0)
    if worst > COST_MAX:
        raise SchemaRefused([f"the document can cost {worst} steps for one value, over the limit of {COST_MAX}"])


class _Cost:
    def __init__(self, document: SchemaDocument) -> None:
        self._refs = document.refs
        self._costs: dict[tuple[int, int], int] = {}
        self._steps: dict[tuple[int, int], int] = {}
        self._free_of_loops: set[int] = set()

    def refuse_loops(self, node: SchemaNode, ancestors: tuple[int, ...]) -> None:
        if id(node) in ancestors:
            raise SchemaRefused(["a $ref leads back to itself without descending into the value"])
        if isinstance(node, bool) or id(node) in self._free_of_loops:
            return
        for part in self._at_same_value(node):
            self.refuse_loops(part, (*ancestors, id(node)))
        self._free_of_loops.add(id(node))

    def steps(self, node: SchemaNode, depth: int) -> int:
        """Return how deeply `node` can nest schema applications on a value with `depth` levels."""
        if isinstance(node, bool):
            return 1
        key = id(node), depth
        if key not in self._steps:
            below = [self.steps(part, depth - 1) for part in _below(node)] if depth else []
            here = [self.steps(part, depth) for part in self._at_same_value(node)]
            self._steps[key] = 1 + max([*below, *here], default=0)
        return self._steps[key]

    def at(self, node: SchemaNode, depth: int) -> int:
        """Return the highest cost of `node` for one value `depth` levels below the value that `node` applies to."""
        if isinstance(node, bool):
            return int(depth == 0)
        key = id(node), depth
        if key not in self._costs:
            below = (
                max(self._of_members(node, depth - 1), self._of_items(node, depth - 1)) if depth else _own_cost(node)
            )
            self._costs[key] = below + sum(self.at(part, depth) for part in self._at_same_value(node))
        return self._costs[key]

    def _at_same_value(self, node: dict[str, Any]) -> Iterator[SchemaNode]:
        """Iterate over the schemas that apply to the same value as `node`."""
        if "$ref" in node:
            yield self._refs[node["$ref"]]
        yield from _applied_here(node)

    def _of_members(self, node: dict[str, Any], depth: int) -> int:
        named = max((self.at(part, depth) for part in node.get("properties", {}).values()), default=0)
        matched = sum(self.at(part, depth) for part in node.get("patternProperties", {}).values())
        names = self.at(node["propertyNames"], depth) if "propertyNames" in node else 0
        return max(named + matched, self.at(node.get("additionalProperties", True), depth)) + names

    def _of_items(self, node: dict[str, Any], depth: int) -> int:
        items = node.get("items", True)
        listed = items if isinstance(items, list) else [items]
        highest = max((self.at(item, depth) for item in listed), default=0)
        contained = self.at(node["contains"], depth) if "contains" in node else 0
        return max(highest, self.at(node.get("additionalItems", True), depth)) + contained


def _applied_here(node: dict[str, Any]) -> Iterator[SchemaNode]:
    """Iterate over the subschemas of `node` that apply to the same value as `node`, references excluded."""
    for name in ("allOf", "anyOf", "oneOf"):
        yield from node.get(name, ())
    for name in ("not", "if", "then", "else"):
        if name in node:
            yield node[name]
    yield from (part for part in node.get("dependencies", {}).values() if not isinstance(part, list))


def _below(node: dict[str, Any]) -> Iterator[SchemaNode]:
    """Iterate over the subschemas of `node` that apply to members and items of its value."""
    for name in ("properties", "patternProperties"):
        yield from node.get(name, {}).values()
    for name in ("propertyNames", "additionalProperties", "additionalItems", "contains"):
        if name in node:
            yield node[name]
    items = node.get("items", True)
    yield from items if isinstance(items, list) else [items]


def _nodes(node: SchemaNode) -> Iterator[dict[str, Any]]:
    """Iterate over every schema object within `node`, itself included."""
    waiting = [node]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, dict):
            yield schema
            waiting += [*_applied_here(schema), *_below(schema)]


def _own_cost(node: dict[str, Any]) -> int:
    """Return the cost of the keywords of `node` itself, without its subschemas."""
    looked_up = len(node.get("properties", ())) + len(node.get("required", ())) + len(node.get("dependencies", ()))
    patterns = [*node.get("patternProperties", ()), *([node["pattern"]] if "pattern" in node else ())]
    alternatives = [node["const"]] if "const" in node else []
    # Strings are looked up in a set in one step; other values are compared one by one.
    alternatives += [value for value in node.get("enum", ()) if not isinstance(value, str)]
    return (
        1  # for being applied: a cost of 0 means that no schema applies
        + _ASSERTION_COST * len(ASSERTIONS.keys() & node.keys())
        + looked_up
        + sum(compile_pattern(pattern).size for pattern in patterns)
        + sum(map(_size, alternatives))
    )


def _size(value: object) -> int:
    """Return the number of values in `value`."""
    if isinstance(value, dict):
        return 1 + sum(map(_size, value.values()))
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1
