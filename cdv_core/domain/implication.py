"""Implication: whether every value that one schema accepts is accepted by another, as far as that can be proved.

The proof goes keyword by keyword; what it cannot prove counts as not implied. So it never takes a breaking change for
a harmless one, and sometimes a harmless one for breaking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from cdv_core.domain.json_equality import equal
from cdv_core.domain.json_schema import SchemaDocument, SchemaNode, escape
from cdv_core.domain.schema_constraints import (
    Node,
    bound_holds,
    finite_values,
    is_integral,
    item_demand,
    member_demands,
    types_of,
    unnamed_demands,
    widened,
)
from cdv_core.domain.violations import find_violations

# Which type of value a keyword looks at; the others look at every value.
_LOOKS_AT: Final = {
    **dict.fromkeys(
        ("minLength", "maxLength", "minBytes", "maxBytes", "minGraphemes", "maxGraphemes", "pattern", "format"),
        "string",
    ),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
    **dict.fromkeys(("items", "additionalItems", "contains", "minItems", "maxItems", "uniqueItems"), "array"),
    **dict.fromkeys(
        (
            "properties", "patternProperties", "additionalProperties", "propertyNames", "dependencies", "required",
            "minProperties", "maxProperties",
        ),
        "object",
    ),
}  # fmt: skip
# These keywords are one rule with others, and proved where such another stands beside them.
_PROVED_WITH: Final = {
    "additionalItems": ("items",),
    "patternProperties": ("properties",),
    "additionalProperties": ("properties", "patternProperties"),
    "then": ("if",),
    "else": ("if",),
}
_DEPTH_MAX: Final = 60  # ours: beyond it nothing is proved, nor after so many steps
_STEPS_MAX: Final = 20_000


class Implication:
    """What `old` accepts, is it accepted by `new`? `gaps` collects where that could not be proved, and why.

    `optional_members`: in an object that was open, a member may be named and described anew. Records that used the
    name already may then be refused; `added` collects those names.
    """

    def __init__(self, old: SchemaDocument, new: SchemaDocument, *, optional_members: bool) -> None:
        self.gaps: list[str] = []
        self.added: set[str] = set()
        self._old = old
        self._new = new
        self._optional_members = optional_members
        self._steps = 0
        # What is being proved, with the nodes themselves, whose ids are the key. Met again further down in the value,
        # it may be assumed: a value is finite, and no schema leads back to itself on the spot.
        self._under_way: dict[tuple[int, ...], tuple[object, ...]] = {}

    def prove(self) -> bool:
        """Return whether it is proved; otherwise `gaps` says why not."""
        return self._implies([self._old.root], self._new.root, "", 0)

    def _gap(self, pointer: str, reason: str) -> bool:
        self.gaps.append(f"{pointer or 'the record'}: {reason}")
        return False

    def _quietly(self, given: Sequence[SchemaNode], wanted: SchemaNode, pointer: str, depth: int) -> bool:
        """Try a proof that is one of several possible: its failure is no gap yet, and its additions do not count."""
        kept = len(self.gaps), set(self.added)
        proved = self._implies(given, wanted, pointer, depth)
        del self.gaps[kept[0] :]
        if not proved:
            self.added = kept[1]
        return proved

    def _implies(self, given: Sequence[SchemaNode], wanted: SchemaNode, pointer: str, depth: int) -> bool:
        """Whether a value that fits all of `given` (of the old document) fits `wanted` (of the new one)."""
        facts = list(self._conjuncts(given))
        wanted = self._new.resolve(wanted)
        key = (*map(id, facts), id(wanted))
        if key in self._under_way:
            return True
        self._steps += 1
        if depth > _DEPTH_MAX or self._steps > _STEPS_MAX:
            return self._gap(pointer, "the schemas are too deep or too many to compare")
        self._under_way[key] = (*facts, wanted)
        try:
            return self._proves(facts, wanted, pointer, depth)
        finally:
            del self._under_way[key]

    def _proves(self, facts: list[SchemaNode], wanted: SchemaNode, pointer: str, depth: int) -> bool:
        if wanted is True or False in facts:
            return True
        nodes = [it for it in facts if not isinstance(it, bool)]
        if isinstance(wanted, bool):
            return self._gap(pointer, "nothing is allowed here any more")
        values = finite_values(nodes)
        if values is not None:
            return self._all_fit([it for it in values if self._fits_all(nodes, it)], wanted, pointer)
        types = types_of(nodes)
        proved = True
        for keyword in wanted:
            if not any(it in wanted for it in _PROVED_WITH.get(keyword, ())):
                looks_at = _LOOKS_AT.get(keyword)
                if looks_at is None or looks_at in types:
                    proved = self._keyword(keyword, nodes, types, wanted, pointer, depth) and proved
        return proved

    def _conjuncts(self, given: Iterable[SchemaNode]) -> Iterator[SchemaNode]:
        """Iterate over what must all hold for a value that fits `given`: these, and what they demand by allOf.

        Each once, however many say so: otherwise their number may double with every step into the value.
        """
        seen: set[int] = set()
        waiting = deque(given)
        while waiting:
            node = self._old.resolve(waiting.popleft())
            if id(node) not in seen:
                seen.add(id(node))
                yield node
                if isinstance(node, dict):
                    waiting += node.get("allOf", ())

    def _fits_all(self, nodes: Iterable[Node], value: object) -> bool:
        return not any(find_violations(SchemaDocument(it, self._old.refs), value) for it in nodes)

    def _all_fit(self, values: Iterable[object], wanted: Node, pointer: str) -> bool:
        document = SchemaDocument(wanted, self._new.refs)
        if all(not find_violations(document, it) for it in values):
            return True
        return self._gap(pointer, "a value that was listed is not allowed any more")

    def _keyword(
        self, keyword: str, nodes: list[Node], types: frozenset[str], wanted: Node, pointer: str, depth: int
    ) -> bool:
        operand = wanted[keyword]
        match keyword:
            case "type":
                allowed = widened(operand)
                integral = "number" not in operand and "integer" in operand and "number" in types
                if types <= allowed and not (integral and not is_integral(nodes)):
                    return True
                return self._gap(pointer, f"the type is now {' or '.join(operand)}")
            case "enum" | "const":
                return self._gap(pointer, "only listed values are allowed now")
            case "allOf":
                return self._all_implied(((nodes, it, pointer) for it in operand), depth)
            case "anyOf":
                return self._any_of(nodes, operand, pointer, depth)
            case "oneOf" | "if":
                return self._same(keyword, nodes, wanted, pointer, depth)
            case "not":
                return self._excluded(nodes, operand, pointer, depth)
            case "items" | "additionalItems":
                return self._items(nodes, wanted, pointer, depth)
            case "contains":
                found = [it["contains"] for it in nodes if "contains" in it]
                if any(self._quietly([it], operand, f"{pointer}/*", depth + 1) for it in found):
                    return True
                return self._gap(pointer, "an array must hold another item now")
            case "properties" | "patternProperties" | "additionalProperties":
                return self._members(nodes, wanted, pointer, depth)
            case "propertyNames":
                names: list[SchemaNode] = [{"type": ["string"]}, *(it.get("propertyNames", True) for it in nodes)]
                return self._implies(names, operand, f"{pointer}/(names)", depth + 1)
            case "dependencies":
                return self._dependencies(nodes, operand, pointer, depth)
            case "required":
                missing = [it for it in operand if not any(it in node.get("required", ()) for node in nodes)]
                return not missing or self._gap(pointer, f"{', '.join(map(repr, missing))} must be there now")
        if bound_holds(keyword, operand, nodes):
            return True
        was = "".join(f", and was {node[keyword]!r}" for node in nodes if keyword in node)
        return self._gap(pointer, f"{keyword} is now {operand!r}{was}")

    def _any_of(self, nodes: list[Node], operand: list[SchemaNode], pointer: str, depth: int) -> bool:
        if any(self._quietly(nodes, it, pointer, depth + 1) for it in operand):
            return True
        for node in nodes:
            for keyword in ("anyOf", "oneOf"):  # one alternative at a time, and every one of them has to be enough
                if keyword in node and all(
                    any(self._quietly([*nodes, was], it, pointer, depth + 1) for it in operand) for was in node[keyword]
                ):
                    return True
        return self._gap(pointer, "the alternatives are others now")

    def _same(self, keyword: str, nodes: list[Node], wanted: Node, pointer: str, depth: int) -> bool:
        """Prove `oneOf`, or `if` with its two outcomes, by finding it as it was."""
        names = ("if", "then", "else") if keyword == "if" else (keyword,)
        if any(keyword in node and self._are_same(node, wanted, names) for node in nodes):
            return True
        if keyword == "if" and all(self._quietly(nodes, wanted.get(it, True), pointer, depth + 1) for it in names[1:]):
            return True
        return self._gap(pointer, f"{keyword} is another now")

    def _are_same(self, node: Node, wanted: Node, names: Iterable[str]) -> bool:
        """Whether these keywords are written alike in both, and so is all that they refer to."""
        was, now = [node.get(it, True) for it in names], [wanted.get(it, True) for it in names]
        if not equal(was, now):
            return False
        seen: set[str] = set()
        waiting = list(_refs(was))
        while waiting:
            ref = waiting.pop()
            if ref not in seen:
                seen.add(ref)
                if not equal(self._old.refs[ref], self._new.refs[ref]):
                    return False
                waiting += _refs(self._old.refs[ref])
        return True

    def _excluded(self, nodes: list[Node], operand: SchemaNode, pointer: str, depth: int) -> bool:
        """Prove `not`: what is excluded now has to have been excluded before. So the other way round, and strictly."""
        for node in nodes:
            if "not" in node:
                backwards = Implication(self._new, self._old, optional_members=False)
                backwards._steps = self._steps
                excluded = backwards._implies([operand], node["not"], pointer, depth + 1)
                self._steps = backwards._steps
                if excluded:
                    return True
        return self._gap(pointer, "other values are excluded now")

    def _items(self, nodes: list[Node], wanted: Node, pointer: str, depth: int) -> bool:
        placed = max([len(it["items"]) for it in (*nodes, wanted) if isinstance(it.get("items"), list)], default=0)
        # Beyond what any of them lists by place, every item is under the same demands.
        places = [*map(str, range(placed)), "*"]
        pairs = [
            ([item_demand(it, index) for it in nodes], item_demand(wanted, index), f"{pointer}/{place}")
            for index, place in enumerate(places)
        ]
        return self._all_implied(pairs, depth)

    def _all_implied(self, pairs: Iterable[tuple[Sequence[SchemaNode], SchemaNode, str]], depth: int) -> bool:
        """Prove each, also after one has failed: every gap is to be found."""
        proved = [self._implies(given, wanted, pointer, depth + 1) for given, wanted, pointer in pairs]
        return all(proved)

    def _members(self, nodes: list[Node], wanted: Node, pointer: str, depth: int) -> bool:
        named = wanted.get("properties", {})
        patterns = wanted.get("patternProperties", {})
        proved = True
        for name, node in named.items():
            place = f"{pointer}/{escape(name)}"
            if self._is_new_member(name, nodes):
                if node is not True:
                    self.added.add(name)
                continue
            proved = self._implies(member_demands(nodes, name), node, place, depth + 1) and proved
        for text, node in patterns.items():
            before = [it["patternProperties"][text] for it in nodes if text in it.get("patternProperties", {})]
            # Members that the old schema names are looked at as well where it names this pattern.
            proved = self._implies(before or [True], node, f"{pointer}/({text})", depth + 1) and proved
        rest = wanted.get("additionalProperties", True)
        if rest is True:
            return proved
        for name in sorted({it for node in nodes for it in node.get("properties", {})} - named.keys()):
            proved = self._implies(member_demands(nodes, name), rest, f"{pointer}/{escape(name)}", depth + 1) and proved
        for text in sorted({it for node in nodes for it in node.get("patternProperties", {})} - patterns.keys()):
            before = [it["patternProperties"][text] for it in nodes if text in it.get("patternProperties", {})]
            proved = self._implies(before, rest, f"{pointer}/({text})", depth + 1) and proved
        return self._implies(unnamed_demands(nodes, patterns), rest, f"{pointer}/*", depth + 1) and proved

    def _is_new_member(self, name: str, nodes: list[Node]) -> bool:
        """Whether the old schema said nothing of a member `name`, neither by its name nor by a rule for all."""
        if not self._optional_members:
            return False
        says = ("patternProperties", "propertyNames", "dependencies")
        return not any(
            name in node.get("properties", {})
            or name in node.get("required", ())
            or node.get("additionalProperties", True) is not True
            or any(it in node for it in says)
            for node in nodes
        )

    def _dependencies(self, nodes: list[Node], operand: dict[str, Any], pointer: str, depth: int) -> bool:
        proved = True
        for name, needed in operand.items():
            before = [it["dependencies"][name] for it in nodes if name in it.get("dependencies", {})]
            given: list[SchemaNode] = [*nodes, *({"required": it} if isinstance(it, list) else it for it in before)]
            given.append({"required": [name]})
            wanted = {"required": needed} if isinstance(needed, list) else needed
            proved = self._implies(given, wanted, pointer, depth + 1) and proved
        return proved


def _refs(node: object) -> Iterator[str]:
    """Iterate over every reference within `node`."""
    if isinstance(node, list):
        for it in node:
            yield from _refs(it)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for it in node.values():
            yield from _refs(it)
