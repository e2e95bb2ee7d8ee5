"""Violations: find everything that is wrong with a value by walking schema and value in parallel.

Runs only on values that the compiled validator has refused, so that it favours clarity over speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate, islice
from typing import Any, Final

from cdv_core.domain.characters import shortened
from cdv_core.domain.formats import FORMATS
from cdv_core.domain.json_equality import equal, identity
from cdv_core.domain.json_schema import SchemaDocument, SchemaNode, escape
from cdv_core.domain.lowering import MEASURES
from cdv_core.domain.patterns import compile_pattern
from cdv_core.errors import Violation

VISITS_MAX: Final = 400_000  # ours: of a schema with a value; about a second, where an ordinary record takes 1,000
# Ours: a record with a hundred thousand invalid items must not produce a response of megabytes.
VIOLATIONS_MAX: Final = 1_000
_POINTERS_MAX_CHARS: Final = 128 * 1024  # ours: for the same reason, if member names are long

_IS_TYPE: Final[Mapping[str, Callable[[Any], bool]]] = {
    "null": lambda it: it is None,
    "boolean": lambda it: isinstance(it, bool),
    "integer": lambda it: _is_number(it) and it == int(it),
    "number": lambda it: _is_number(it),  # noqa: PLW0108 - defined below
    "string": lambda it: isinstance(it, str),
    "array": lambda it: isinstance(it, list),
    "object": lambda it: isinstance(it, dict),
}


def find_violations(document: SchemaDocument, value: object) -> tuple[Violation, ...]:
    """Return the violations of `value`, in schema order and without duplicates; () if it is valid.

    At most VIOLATIONS_MAX; if there are more, or the search was given up after VISITS_MAX steps, the last one has the
    rule `more`.
    """
    faults, given_up = _search(document, value)
    lengths = accumulate(len(it.pointer) for it in faults)
    shown = sum(1 for length in islice(lengths, VIOLATIONS_MAX) if length <= _POINTERS_MAX_CHARS) or 1
    if given_up and not faults:
        return (Violation("", "schema", "does not fit the schema; where, was not found in the time that there is"),)
    if shown < len(faults) or given_up:
        faults[shown:] = [Violation("", "more", "there are more violations than are listed here")]
    return tuple(faults)


def _search(document: SchemaDocument, value: object) -> tuple[list[Violation], bool]:
    """Return the faults, one more than are listed at most, and whether the search was given up."""
    faults: dict[Violation, None] = {}
    try:
        for fault in islice(_Walk(document).faults(document.root, value, ""), VIOLATIONS_MAX + 1):
            faults[fault] = None
    except _TooManyVisits:
        return list(faults), True
    return list(faults), False


class _TooManyVisits(Exception):
    """VISITS_MAX are used up."""


class _Walk:
    def __init__(self, document: SchemaDocument) -> None:
        self._document = document
        self._visits_left = VISITS_MAX

    def fits(self, node: SchemaNode, value: object) -> bool:
        return next(self.faults(node, value, ""), None) is None

    def faults(self, node: SchemaNode, value: object, pointer: str) -> Iterator[Violation]:
        if not self._visits_left:
            raise _TooManyVisits
        self._visits_left -= 1
        node = self._document.resolve(node)
        if node is False:
            yield Violation(pointer, "false", "nothing is allowed here")
        if isinstance(node, bool):
            return
        if "type" in node and not any(_IS_TYPE[name](value) for name in node["type"]):
            yield Violation(pointer, "type", f"must be {' or '.join(node['type'])}")
        if "enum" in node and not any(equal(value, listed) for listed in node["enum"]):
            yield Violation(pointer, "enum", "must be one of the values that the schema lists")
        if "const" in node and not equal(value, node["const"]):
            yield Violation(pointer, "const", "must be the value that the schema gives")
        if isinstance(value, str):
            yield from _of_string(node, value, pointer)
        elif _is_number(value):
            yield from _of_number(node, value, pointer)
        elif isinstance(value, list):
            yield from self._of_array(node, value, pointer)
        elif isinstance(value, dict):
            yield from self._of_object(node, value, pointer)
        yield from self._of_combination(node, value, pointer)

    def _of_combination(self, node: dict[str, Any], value: object, pointer: str) -> Iterator[Violation]:
        for part in node.get("allOf", ()):
            yield from self.faults(part, value, pointer)
        if "anyOf" in node and not any(self.fits(part, value) for part in node["anyOf"]):
            yield Violation(pointer, "anyOf", f"must fit one of {len(node['anyOf'])} alternatives, and fits none")
        if "oneOf" in node:
            fitting = sum(self.fits(part, value) for part in node["oneOf"])
            if fitting != 1:
                message = f"must fit exactly one of {len(node['oneOf'])} alternatives, and fits {fitting}"
                yield Violation(pointer, "oneOf", message)
        if "not" in node and self.fits(node["not"], value):
            yield Violation(pointer, "not", "must not fit what the schema excludes")
        if "if" in node:
            yield from self.faults(node.get("then" if self.fits(node["if"], value) else "else", True), value, pointer)

    def _of_array(self, node: dict[str, Any], value: list[object], pointer: str) -> Iterator[Violation]:
        yield from _of_size(node, len(value), "Items", "items", pointer)
        if node.get("uniqueItems") and len({identity(item) for item in value}) < len(value):
            yield Violation(pointer, "uniqueItems", "must not hold the same item twice")
        if "contains" in node and not any(self.fits(node["contains"], item) for item in value):
            yield Violation(pointer, "contains", "must hold an item that the schema asks for")
        items = node.get("items", True)
        listed = items if isinstance(items, list) else [items] * len(value)
        rest = node.get("additionalItems", True)
        for index, item in enumerate(value):
            if index < len(listed):
                yield from self.faults(listed[index], item, f"{pointer}/{index}")
            elif rest is False:
                yield Violation(f"{pointer}/{index}", "additionalItems", f"must not have more than {len(listed)} items")
            else:
                yield from self.faults(rest, item, f"{pointer}/{index}")

    def _of_object(self, node: dict[str, Any], value: dict[str, object], pointer: str) -> Iterator[Violation]:
        yield from _of_size(node, len(value), "Properties", "members", pointer)
        for name in node.get("required", ()):
            if name not in value:
                yield Violation(pointer, "required", f"must have the member {_shown(name)}")
        for name, needed in node.get("dependencies", {}).items():
            if name in value:
                yield from self._of_dependency(name, needed, value, pointer)
        named = node.get("properties", {})
        matched = [(compile_pattern(text), part) for text, part in node.get("patternProperties", {}).items()]
        for name, member in value.items():
            member_pointer = f"{pointer}/{escape(name)}"
            if "propertyNames" in node and not self.fits(node["propertyNames"], name):
                yield Violation(member_pointer, "propertyNames", "must not have this name")
            applied = [named[name]] if name in named else []
            applied += [part for pattern, part in matched if pattern.search(name)]
            for part in applied:
                yield from self.faults(part, member, member_pointer)
            rest = True if applied else node.get("additionalProperties", True)
            if rest is False:
                yield Violation(
                    member_pointer, "additionalProperties", "must not be there: the schema names every member"
                )
            else:
                yield from self.faults(rest, member, member_pointer)

    def _of_dependency(
        self, name: str, needed: SchemaNode | list[str], value: dict[str, object], pointer: str
    ) -> Iterator[Violation]:
        if not isinstance(needed, list):
            yield from self.faults(needed, value, pointer)
            return
        for other in needed:
            if other not in value:
                message = f"must have the member {_shown(other)} beside {_shown(name)}"
                yield Violation(pointer, "dependencies", message)


def _of_string(node: dict[str, Any], value: str, pointer: str) -> Iterator[Violation]:
    yield from _of_size(node, len(value), "Length", "characters", pointer)
    for name, measure in MEASURES.items():
        if f"min{name}" in node or f"max{name}" in node:
            yield from _of_size(node, measure(value), name, f"{name.lower()}", pointer)
    if "format" in node and not FORMATS[node["format"]](value):
        yield Violation(pointer, "format", f"must be a {node['format']}")
    if "pattern" in node and not compile_pattern(node["pattern"]).search(value):
        yield Violation(pointer, "pattern", f"must match {_shown(node['pattern'])}")


def _of_size(node: dict[str, Any], size: int, keyword: str, unit: str, pointer: str) -> Iterator[Violation]:
    minimum, maximum = node.get(f"min{keyword}", 0), node.get(f"max{keyword}", size)
    if size < minimum:
        yield Violation(pointer, f"min{keyword}", f"must have at least {minimum} {unit}, and has {size}")
    if size > maximum:
        yield Violation(pointer, f"max{keyword}", f"must have at most {maximum} {unit}, and has {size}")


def _of_number(node: dict[str, Any], value: Any, pointer: str) -> Iterator[Violation]:  # noqa: ANN401 - int or float
    if "minimum" in node and value < node["minimum"]:
        yield Violation(pointer, "minimum", f"must be at least {node['minimum']}")
    if "maximum" in node and value > node["maximum"]:
        yield Violation(pointer, "maximum", f"must be at most {node['maximum']}")
    if "exclusiveMinimum" in node and value <= node["exclusiveMinimum"]:
        yield Violation(pointer, "exclusiveMinimum", f"must be more than {node['exclusiveMinimum']}")
    if "exclusiveMaximum" in node and value >= node["exclusiveMaximum"]:
        yield Violation(pointer, "exclusiveMaximum", f"must be less than {node['exclusiveMaximum']}")
    if "multipleOf" in node and (exact(value) / exact(node["multipleOf"])).denominator != 1:
        yield Violation(pointer, "multipleOf", f"must be a multiple of {node['multipleOf']}")


def exact(number: float) -> Fraction:
    """Return the decimal number as written, not its nearest double."""
    return Fraction(Decimal(repr(number)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(text: str) -> str:
    return repr(shortened(text))
