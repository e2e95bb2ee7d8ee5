"""What a schema can cost: a bound on the work for one value within a record, whatever the record.

A record has at most RECORD_MAX_BYTES, so a bound on the work for each of its values bounds the whole validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Any, Final

from cdv_core.domain.json_schema import ASSERTIONS, SchemaDocument, SchemaNode, SchemaRefused
from cdv_core.domain.limits import RECORD_NESTING_MAX
from cdv_core.domain.patterns import compile_pattern

STEPS_MAX: Final = 250  # ours: applied one within the other, a few Python frames each, of the thousand there are
COST_MAX: Final = 1_000  # ours: at worst some seconds for the largest record, for ordinary schemas microseconds
_ASSERTION_COST: Final = 4  # ours: as long as a pattern's instruction takes for each of a small value's bytes


def check_cost(document: SchemaDocument) -> None:
    """Raises SchemaRefused: a `$ref` leads back to itself on the spot, or validation could go too deep or too long."""
    if not document.refs and sum(map(_own, _nodes(document.root))) <= COST_MAX:
        return  # all of it together costs no more, wherever in a record it applies
    cost = _Cost(document)
    try:
        for node in [document.root, *document.refs.values()]:
            cost.refuse_loops(node, ())
        steps = cost.steps(document.root, RECORD_NESTING_MAX)
    except RecursionError:
        steps = STEPS_MAX + 1
    if steps > STEPS_MAX:
        raise SchemaRefused([f"the document applies more than {STEPS_MAX} schemas, one within the other"])
    # Where nothing applies any more, nothing applies further down.
    costs = takewhile(bool, (cost.at(document.root, depth) for depth in range(RECORD_NESTING_MAX + 1)))
    worst = max(costs, default=0)
    if worst > COST_MAX:
        raise SchemaRefused([f"the document can cost {worst} steps for one value, over the limit of {COST_MAX}"])


class _Cost:
    def __init__(self, document: SchemaDocument) -> None:
        self._refs = document.refs
        self._known: dict[tuple[int, int], int] = {}
        self._steps: dict[tuple[int, int], int] = {}
        self._free_of_loops: set[int] = set()

    def refuse_loops(self, node: SchemaNode, above: tuple[int, ...]) -> None:
        if id(node) in above:
            raise SchemaRefused(["a $ref leads back to itself without going down into the value"])
        if isinstance(node, bool) or id(node) in self._free_of_loops:
            return
        for part in self._on_the_spot(node):
            self.refuse_loops(part, (*above, id(node)))
        self._free_of_loops.add(id(node))

    def steps(self, node: SchemaNode, depth: int) -> int:
        """Return how many schemas `node` can apply one within the other, to a value `depth` levels deep."""
        if isinstance(node, bool):
            return 1
        key = id(node), depth
        if key not in self._steps:
            below = [self.steps(part, depth - 1) for part in _below(node)] if depth else []
            here = [self.steps(part, depth) for part in self._on_the_spot(node)]
            self._steps[key] = 1 + max([*below, *here], default=0)
        return self._steps[key]

    def at(self, node: SchemaNode, depth: int) -> int:
        """Return the most that `node` makes us do for one value `depth` levels below the one that it applies to."""
        if isinstance(node, bool):
            return int(depth == 0)
        key = id(node), depth
        if key not in self._known:
            below = max(self._of_members(node, depth - 1), self._of_items(node, depth - 1)) if depth else _own(node)
            self._known[key] = below + sum(self.at(part, depth) for part in self._on_the_spot(node))
        return self._known[key]

    def _on_the_spot(self, node: dict[str, Any]) -> Iterator[SchemaNode]:
        """Iterate over what applies to the very value that `node` applies to."""
        if "$ref" in node:
            yield self._refs[node["$ref"]]
        yield from _applied_here(node)

    def _of_members(self, node: dict[str, Any], depth: int) -> int:
        named = max((self.at(it, depth) for it in node.get("properties", {}).values()), default=0)
        matched = sum(self.at(it, depth) for it in node.get("patternProperties", {}).values())
        names = self.at(node["propertyNames"], depth) if "propertyNames" in node else 0
        return max(named + matched, self.at(node.get("additionalProperties", True), depth)) + names

    def _of_items(self, node: dict[str, Any], depth: int) -> int:
        items = node.get("items", True)
        listed = items if isinstance(items, list) else [items]
        placed = max((self.at(it, depth) for it in listed), default=0)
        contained = self.at(node["contains"], depth) if "contains" in node else 0
        return max(placed, self.at(node.get("additionalItems", True), depth)) + contained


def _applied_here(node: dict[str, Any]) -> Iterator[SchemaNode]:
    """Iterate over what `node` applies to the very value that it applies to itself, references apart."""
    for name in ("allOf", "anyOf", "oneOf"):
        yield from node.get(name, ())
    for name in ("not", "if", "then", "else"):
        if name in node:
            yield node[name]
    yield from (it for it in node.get("dependencies", {}).values() if not isinstance(it, list))


def _below(node: dict[str, Any]) -> Iterator[SchemaNode]:
    """Iterate over what applies to members and items of what `node` applies to."""
    for name in ("properties", "patternProperties"):
        yield from node.get(name, {}).values()
    for name in ("propertyNames", "additionalProperties", "additionalItems", "contains"):
        if name in node:
            yield node[name]
    items = node.get("items", True)
    yield from items if isinstance(items, list) else [items]


def _nodes(node: SchemaNode) -> Iterator[dict[str, Any]]:
    """Iterate over every schema within `node`, itself included, that is more than true or false."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield found
            waiting += [*_applied_here(found), *_below(found)]


def _own(node: dict[str, Any]) -> int:
    """Return the work of the keywords of `node` itself."""
    looked_up = len(node.get("properties", ())) + len(node.get("required", ())) + len(node.get("dependencies", ()))
    patterns = [*node.get("patternProperties", ()), *([node["pattern"]] if "pattern" in node else ())]
    alternatives = [node["const"]] if "const" in node else []
    # A set of strings is looked up in one step, anything else is compared one by one.
    alternatives += [it for it in node.get("enum", ()) if not isinstance(it, str)]
    return (
        1  # for being here at all: what costs nothing does not apply
        + _ASSERTION_COST * len(ASSERTIONS.keys() & node.keys())
        + looked_up
        + sum(compile_pattern(it).size for it in patterns)
        + sum(map(_size, alternatives))
    )


def _size(value: object) -> int:
    """Return the number of values in `value`."""
    if isinstance(value, dict):
        return 1 + sum(map(_size, value.values()))
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1
