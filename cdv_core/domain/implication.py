"""Implication: prove that every value valid against one schema is valid against another.

The proof goes keyword by keyword and is sound but incomplete: what it cannot prove counts as not implied. So a breaking
change is never reported as compatible, but a compatible one may be reported as breaking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from cdv_core.domain.json_equality import equal
from cdv_core.domain.json_schema import SchemaDocument, SchemaNode, escape
from cdv_core.domain.schema_constraints import (
    Node,
    additional_member_schemas,
    bound_holds,
    finite_values,
    is_integral,
    item_schema,
    member_schemas,
    types_of,
    widened,
)
from cdv_core.domain.violations import find_violations

# The type of value that a keyword applies to; keywords not listed apply to every value.
_APPLIES_TO: Final = {
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
# Keywords that are proved together with another keyword of the same schema, if it has that one.
_PROVED_WITH: Final = {
    "additionalItems": ("items",),
    "patternProperties": ("properties",),
    "additionalProperties": ("properties", "patternProperties"),
    "then": ("if",),
    "else": ("if",),
}
_DEPTH_MAX: Final = 60  # ours: deeper schemas count as not implied
_STEPS_MAX: Final = 20_000  # ours: likewise after so many steps


class Implication:
    """Whether `old` implies `new`: every value that `old` accepts, `new` accepts.

    `gaps`: where that could not be proved, and why. `optional_members`: allow `new` to define members that `old` left
    undefined in an open object; records that already use such a name may then be refused. `added`: these names.
    """

    def __init__(self, old: SchemaDocument, new: SchemaDocument, *, optional_members: bool) -> None:
        self.gaps: list[str] = []
        self.added: set[str] = set()
        self._old = old
        self._new = new
        self._optional_members = optional_members
        self._steps = 0
        # The proofs in progress. Keys are the ids of the nodes; the values keep the nodes alive. A goal that recurs
        # deeper in the value may be assumed: values are finite, and no schema refers to itself at the same value.
        self._in_progress: dict[tuple[int, ...], tuple[object, ...]] = {}

    def prove(self) -> bool:
        """Return whether the implication was proved; if not, `gaps` has the reasons."""
        return self._implies([self._old.root], self._new.root, "", 0)

    def _gap(self, pointer: str, reason: str) -> bool:
        self.gaps.append(f"{pointer or 'the record'}: {reason}")
        return False

    def _try_to_prove(self, given: Sequence[SchemaNode], wanted: SchemaNode, pointer: str, depth: int) -> bool:
        """Try one of several alternative proofs: if it fails, its gaps and added members are dropped."""
        gap_count, added = len(self.gaps), set(self.added)
        proved = self._implies(given, wanted, pointer, depth)
        del self.gaps[gap_count:]
        if not proved:
            self.added = added
        return proved

    def _implies(self, given: Sequence[SchemaNode], wanted: SchemaNode, pointer: str, depth: int) -> bool:
        """Return whether every value valid against all of `given` (old document) is valid against `wanted` (new)."""
        premises = list(self._conjuncts(given))
        wanted = self._new.resolve(wanted)
        key = (*map(id, premises), id(wanted))
        if key in self._in_progress:
            return True
        self._steps += 1
        if depth > _DEPTH_MAX or self._steps > _STEPS_MAX:
            return self._gap(pointer, "the schemas are too deep or too large to compare")
        self._in_progress[key] = (*premises, wanted)
        try:
            return self._proves(premises, wanted, pointer, depth)
        finally:
            del self._in_progress[key]

    def _proves(self, premises: list[SchemaNode], wanted: SchemaNode, pointer: str, depth: int) -> bool:
        if wanted is True or False in premises:
            return True
        nodes = [node for node in premises if not isinstance(node, bool)]
        if isinstance(wanted, bool):
            return self._gap(pointer, "nothing is allowed here any more")
        values = finite_values(nodes)
        if values is not None:
            return self._all_valid([value for value in values if self._satisfies_all(nodes, value)], wanted, pointer)
        types = types_of(nodes)
        proved = True
        for keyword in wanted:
            if not any(other in wanted for other in _PROVED_WITH.get(keyword, ())):
                applies_to = _APPLIES_TO.get(keyword)
                if applies_to is None or applies_to in types:
                    proved = self._keyword(keyword, nodes, types, wanted, pointer, depth) and proved
        return proved

    def _conjuncts(self, given: Iterable[SchemaNode]) -> Iterator[SchemaNode]:
        """Iterate over the schemas that a value valid against `given` satisfies: these and, recursively, their allOf.

        Each once, even if reached repeatedly: otherwise their number could double with every level of the value.
        """
        seen: set[int] = set()
        queue = deque(given)
        while queue:
            node = self._old.resolve(queue.popleft())
            if id(node) not in seen:
                seen.add(id(node))
                yield node
                if isinstance(node, dict):
                    queue += node.get("allOf", ())

    def _satisfies_all(self, nodes: Iterable[Node], value: object) -> bool:
        return not any(find_violations(SchemaDocument(node, self._old.refs), value) for node in nodes)

    def _all_valid(self, values: Iterable[object], wanted: Node, pointer: str) -> bool:
        document = SchemaDocument(wanted, self._new.refs)
        if all(not find_violations(document, value) for value in values):
            return True
        return self._gap(pointer, "a previously listed value is no longer allowed")

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
                return self._all_implied(((nodes, part, pointer) for part in operand), depth)
            case "anyOf":
                return self._any_of(nodes, operand, pointer, depth)
            case "oneOf" | "if":
                return self._unchanged(keyword, nodes, wanted, pointer, depth)
            case "not":
                return self._excluded(nodes, operand, pointer, depth)
            case "items" | "additionalItems":
                return self._items(nodes, wanted, pointer, depth)
            case "contains":
                contained = [node["contains"] for node in nodes if "contains" in node]
                if any(self._try_to_prove([item], operand, f"{pointer}/*", depth + 1) for item in contained):
                    return True
                return self._gap(pointer, "arrays must now contain another item")
            case "properties" | "patternProperties" | "additionalProperties":
                return self._members(nodes, wanted, pointer, depth)
            case "propertyNames":
                names: list[SchemaNode] = [{"type": ["string"]}, *(node.get("propertyNames", True) for node in nodes)]
                return self._implies(names, operand, f"{pointer}/(names)", depth + 1)
            case "dependencies":
                return self._dependencies(nodes, operand, pointer, depth)
            case "required":
                missing = [name for name in operand if not any(name in node.get("required", ()) for node in nodes)]
                return not missing or self._gap(pointer, f"now required: {', '.join(map(repr, missing))}")
        if bound_holds(keyword, operand, nodes):
            return True
        was = "".join(f", and was {node[keyword]!r}" for node in nodes if keyword in node)
        return self._gap(pointer, f"{keyword} is now {operand!r}{was}")

    def _any_of(self, nodes: list[Node], operand: list[SchemaNode], pointer: str, depth: int) -> bool:
        if any(self._try_to_prove(nodes, alternative, pointer, depth + 1) for alternative in operand):
            return True
        for node in nodes:
            for keyword in ("anyOf", "oneOf"):  # by cases: each old alternative must imply one of the new ones
                if keyword in node and all(
                    any(self._try_to_prove([*nodes, old], new, pointer, depth + 1) for new in operand)
                    for old in node[keyword]
                ):
                    return True
        return self._gap(pointer, "the alternatives have changed")

    def _unchanged(self, keyword: str, nodes: list[Node], wanted: Node, pointer: str, depth: int) -> bool:
        """Prove `oneOf`, or `if` with `then` and `else`, by finding it unchanged in the old schema."""
        names = ("if", "then", "else") if keyword == "if" else (keyword,)
        if any(keyword in node and self._are_same(node, wanted, names) for node in nodes):
            return True
        if keyword == "if" and all(
            self._try_to_prove(nodes, wanted.get(name, True), pointer, depth + 1) for name in ("then", "else")
        ):
            return True
        return self._gap(pointer, f"{keyword} has changed")

    def _are_same(self, node: Node, wanted: Node, names: Iterable[str]) -> bool:
        """Return whether these keywords are equal in both, and so is everything that they refer to."""
        old, new = [node.get(name, True) for name in names], [wanted.get(name, True) for name in names]
        if not equal(old, new):
            return False
        seen: set[str] = set()
        waiting = list(_refs(old))
        while waiting:
            ref = waiting.pop()
            if ref not in seen:
                seen.add(ref)
                if not equal(self._old.refs[ref], self._new.refs[ref]):
                    return False
                waiting += _refs(self._old.refs[ref])
        return True

    def _excluded(self, nodes: list[Node], operand: SchemaNode, pointer: str, depth: int) -> bool:
        """Prove `not`: whatever is excluded now was excluded before. So the implication is reversed, and strict."""
        for node in nodes:
            if "not" in node:
                reverse = Implication(self._new, self._old, optional_members=False)
                reverse._steps = self._steps
                excluded = reverse._implies([operand], node["not"], pointer, depth + 1)
                self._steps = reverse._steps
                if excluded:
                    return True
        return self._gap(pointer, "other values are excluded now")

    def _items(self, nodes: list[Node], wanted: Node, pointer: str, depth: int) -> bool:
        listed = max(
            [len(node["items"]) for node in (*nodes, wanted) if isinstance(node.get("items"), list)], default=0
        )
        # All items after the last one listed by index have the same schemas.
        steps = [*map(str, range(listed)), "*"]
        pairs = [
            ([item_schema(node, index) for node in nodes], item_schema(wanted, index), f"{pointer}/{step}")
            for index, step in enumerate(steps)
        ]
        return self._all_implied(pairs, depth)

    def _all_implied(self, pairs: Iterable[tuple[Sequence[SchemaNode], SchemaNode, str]], depth: int) -> bool:
        """Try to prove each, even after a failure, to collect every gap."""
        proved = [self._implies(given, wanted, pointer, depth + 1) for given, wanted, pointer in pairs]
        return all(proved)

    def _members(self, nodes: list[Node], wanted: Node, pointer: str, depth: int) -> bool:
        named = wanted.get("properties", {})
        patterns = wanted.get("patternProperties", {})
        proved = True
        for name, node in named.items():
            member = f"{pointer}/{escape(name)}"
            if self._is_new_member(name, nodes):
                if node is not True:
                    self.added.add(name)
                continue
            proved = self._implies(member_schemas(nodes, name), node, member, depth + 1) and proved
        for text, node in patterns.items():
            given = _with_pattern(nodes, text)
            # If the old schema has this pattern too, it applies to the members that it names as well.
            proved = self._implies(given or [True], node, f"{pointer}/({text})", depth + 1) and proved
        rest = wanted.get("additionalProperties", True)
        if rest is True:
            return proved
        for name in sorted({name for node in nodes for name in node.get("properties", {})} - named.keys()):
            proved = self._implies(member_schemas(nodes, name), rest, f"{pointer}/{escape(name)}", depth + 1) and proved
        for text in sorted({text for node in nodes for text in node.get("patternProperties", {})} - patterns.keys()):
            proved = self._implies(_with_pattern(nodes, text), rest, f"{pointer}/({text})", depth + 1) and proved
        return self._implies(additional_member_schemas(nodes, patterns), rest, f"{pointer}/*", depth + 1) and proved

    def _is_new_member(self, name: str, nodes: list[Node]) -> bool:
        """Return whether no rule of the old schema applies to a member `name`, neither by name nor in general."""
        if not self._optional_members:
            return False
        general = ("patternProperties", "propertyNames", "dependencies")
        return not any(
            name in node.get("properties", {})
            or name in node.get("required", ())
            or node.get("additionalProperties", True) is not True
            or any(keyword in node for keyword in general)
            for node in nodes
        )

    def _dependencies(self, nodes: list[Node], operand: dict[str, Any], pointer: str, depth: int) -> bool:
        proved = True
        for name, needed in operand.items():
            old = [node["dependencies"][name] for node in nodes if name in node.get("dependencies", {})]
            given = [*nodes, *map(_dependency_schema, old), {"required": [name]}]
            proved = self._implies(given, _dependency_schema(needed), pointer, depth + 1) and proved
        return proved


def _with_pattern(nodes: Iterable[Node], text: str) -> list[SchemaNode]:
    """Return the schemas that `nodes` apply to members matching the pattern `text`."""
    return [node["patternProperties"][text] for node in nodes if text in node.get("patternProperties", {})]


def _dependency_schema(dependency: SchemaNode | list[str]) -> SchemaNode:
    """Return a dependency as a schema, also if it lists member names."""
    return {"required": dependency} if isinstance(dependency, list) else dependency


def _refs(node: object) -> Iterator[str]:
    """Iterate over every reference within `node`."""
    if isinstance(node, list):
        for element in node:
            yield from _refs(element)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for operand in node.values():
            yield from _refs(operand)
