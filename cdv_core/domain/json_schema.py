"""JSON Schema, draft-07: check which keywords a document uses, and convert it to normal form.

A keyword that is not enforced is refused rather than ignored, so that no schema states a rule that nothing checks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from cdv_core.domain.formats import FORMATS
from cdv_core.domain.patterns import PatternRefused, compile_pattern

SchemaNode: TypeAlias = "bool | dict[str, Any]"

TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")
SCHEMA_NESTING_MAX: Final = 64  # ours: nested schemas; records nest 32 levels

_DRAFT: Final = re.compile(r"https?://json-schema\.org/draft-07/schema#?", re.ASCII)
_MULTIPLE_MAX_DECIMALS: Final = (
    8  # ours: with 64-bit integers, stays exact in the 28 digits of the validator's decimals
)


@dataclass(frozen=True, slots=True)
class SchemaDocument:
    """A document in normal form: without annotations and keywords that have no effect, `type` a sorted list.

    `refs`: the target of each `$ref` in it, by its text.
    """

    root: SchemaNode
    refs: Mapping[str, SchemaNode]

    def resolve(self, node: SchemaNode) -> SchemaNode:
        """Return `node`, or the final target of its `$ref`."""
        while isinstance(node, dict) and "$ref" in node:
            node = self.refs[node["$ref"]]
        return node


class SchemaRefused(ValueError):
    """The document is not a schema that can be enforced. `reasons`: everything wrong, each with its JSON pointer."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


def read_schema(document: object) -> SchemaDocument:
    """Return the JSON value `document` in normal form.

    Raises SchemaRefused: with everything that cannot be enforced or that draft-07 does not allow.
    """
    reader = _Reader()
    root = reader.read(document, "", 0)
    reader.link()
    if reader.reasons:
        raise SchemaRefused(reader.reasons)
    return SchemaDocument(root, reader.refs)


# Checks of keywords' operands. Each returns why the operand is invalid, None if it is valid.


def _is_count(value: object) -> str | None:
    return None if type(value) is int and value >= 0 else "is not a whole number from 0"


def _is_number(value: object) -> str | None:
    return None if type(value) in {int, float} else "is not a number"


def _is_divisor(value: object) -> str | None:
    if type(value) not in {int, float} or value <= 0:  # type: ignore[operator]
        return "is not a number above 0"
    if isinstance(value, float) and round(value, _MULTIPLE_MAX_DECIMALS) != value:
        return f"has more than {_MULTIPLE_MAX_DECIMALS} decimals"
    return None


def _is_bool(value: object) -> str | None:
    return None if isinstance(value, bool) else "is not true or false"


def _is_text(value: object) -> str | None:
    return None if isinstance(value, str) else "is not a string"


def _is_list(value: object) -> str | None:
    return None if isinstance(value, list) else "is not an array"


def _are_names(value: object) -> str | None:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return "is not an array of strings"
    return None if len(set(value)) == len(value) else "names something twice"


def _are_types(value: object) -> str | None:
    listed = [value] if isinstance(value, str) else value
    if _are_names(listed) or not listed:
        return "is neither a type nor an array of types, each once"
    unknown = sorted(set(listed) - set(TYPES))  # type: ignore[call-overload]
    return f"{unknown[0]!r} is not a type" if unknown else None


def _is_format(value: object) -> str | None:
    return None if isinstance(value, str) and value in FORMATS else f"{value!r} is not a format that is enforced here"


def _is_pattern(value: object) -> str | None:
    if not isinstance(value, str):
        return "is not a string"
    try:
        compile_pattern(value)
    except PatternRefused as wrong:
        return str(wrong)
    return None


def _is_anything(_: object) -> str | None:
    return None


Check: TypeAlias = "Callable[[object], str | None]"

ASSERTIONS: Final[Mapping[str, Check]] = MappingProxyType(
    {
        "type": _are_types,
        "enum": _is_list,
        "const": _is_anything,
        "minLength": _is_count,
        "maxLength": _is_count,
        "minBytes": _is_count,  # ours, for Lexicon: UTF-8 bytes
        "maxBytes": _is_count,
        "minGraphemes": _is_count,  # ours, for Lexicon: grapheme clusters
        "maxGraphemes": _is_count,
        "pattern": _is_pattern,
        "format": _is_format,
        "minimum": _is_number,
        "maximum": _is_number,
        "exclusiveMinimum": _is_number,
        "exclusiveMaximum": _is_number,
        "multipleOf": _is_divisor,
        "minItems": _is_count,
        "maxItems": _is_count,
        "uniqueItems": _is_bool,
        "minProperties": _is_count,
        "maxProperties": _is_count,
        "required": _are_names,
    }
)
ONE_SCHEMA: Final = (
    "not", "if", "then", "else", "additionalItems", "contains", "additionalProperties", "propertyNames",
)  # fmt: skip
_SCHEMA_LISTS: Final = ("allOf", "anyOf", "oneOf")
_SCHEMA_MAPS: Final = ("properties", "patternProperties", "definitions")
_ANNOTATIONS: Final[Mapping[str, Check]] = MappingProxyType(
    {
        "$comment": _is_text,
        "title": _is_text,
        "description": _is_text,
        "default": _is_anything,  # never applied: a record is stored as it was sent
        "examples": _is_list,
        "readOnly": _is_bool,
        "writeOnly": _is_bool,
    }
)


class _Reader:
    """Reads one document, collecting everything wrong."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.refs: dict[str, SchemaNode] = {}
        self._read: dict[str, SchemaNode] = {}  # by pointer: the possible targets of a $ref
        self._referring: dict[str, str] = {}  # $ref -> the pointer of its first occurrence

    def read(self, node: object, pointer: str, depth: int) -> SchemaNode:
        """Return `node`, located at `pointer`, in normal form."""
        normal: dict[str, Any] = {}
        if depth > SCHEMA_NESTING_MAX:
            self._refuse(pointer, f"nests more than {SCHEMA_NESTING_MAX} schemas")
        elif isinstance(node, dict):
            for name, operand in node.items():
                self._keyword(normal, name, operand, f"{pointer}/{escape(name)}", depth + 1)
            _simplify(normal)
        elif not isinstance(node, bool):
            self._refuse(pointer, "is not a schema: an object, true or false")
        self._read[pointer] = node if isinstance(node, bool) else normal or True
        return self._read[pointer]

    def link(self) -> None:
        """Resolve every `$ref`."""
        for ref, pointer in self._referring.items():
            target = unquote(ref[1:])
            if not ref.startswith("#"):
                self._refuse(pointer, f"{ref!r} leads out of the document")
            elif target not in self._read:
                self._refuse(pointer, f"{ref!r} is not the pointer of a schema in the document")
            else:
                self.refs[ref] = self._read[target]

    def _refuse(self, pointer: str, reason: str) -> None:
        self.reasons.append(f"{pointer or 'the document'} {reason}")

    def _keyword(self, normal: dict[str, Any], name: str, operand: object, pointer: str, depth: int) -> None:
        if name in ASSERTIONS or name in _ANNOTATIONS:
            reason = (ASSERTIONS.get(name) or _ANNOTATIONS[name])(operand)
            if reason:
                self._refuse(pointer, reason)
            elif name in ASSERTIONS:
                normal[name] = operand
        elif name in ONE_SCHEMA:
            normal[name] = self.read(operand, pointer, depth)
        elif name == "items":
            several = isinstance(operand, list)
            normal[name] = (self._list if several else self.read)(operand, pointer, depth)
        elif name in _SCHEMA_LISTS:
            normal[name] = self._list(operand, pointer, depth)
            if operand == []:
                self._refuse(pointer, "is empty")
        elif name in _SCHEMA_MAPS or name == "dependencies":
            normal[name] = dict(self._map(name, operand, pointer, depth))
        elif name == "$ref":
            self._ref(normal, operand, pointer)
        elif name in {"$schema", "$id"} and depth == 1:
            self._identity(name, operand, pointer)
        elif name in {"$schema", "$id"}:
            self._refuse(pointer, "is allowed at the root only")
        else:
            self._refuse(pointer, "is not a keyword that is enforced here")

    def _list(self, operand: object, pointer: str, depth: int) -> list[SchemaNode]:
        if not isinstance(operand, list):
            self._refuse(pointer, "is not an array of schemas")
            return []
        return [self.read(node, f"{pointer}/{index}", depth) for index, node in enumerate(operand)]

    def _map(
        self, name: str, operand: object, pointer: str, depth: int
    ) -> Iterator[tuple[str, SchemaNode | list[str]]]:
        if not isinstance(operand, dict):
            self._refuse(pointer, "is not an object of schemas")
            return
        for member, node in operand.items():
            member_pointer = f"{pointer}/{escape(member)}"
            reason = _is_pattern(member) if name == "patternProperties" else None
            if name == "dependencies" and isinstance(node, list):
                reason = _are_names(node)
                yield member, [] if reason else node
            else:
                yield member, self.read(node, member_pointer, depth)
            if reason:
                self._refuse(member_pointer, reason)

    def _ref(self, normal: dict[str, Any], operand: object, pointer: str) -> None:
        if isinstance(operand, str):
            normal["$ref"] = operand
            self._referring.setdefault(operand, pointer)
        else:
            self._refuse(pointer, "is not a string")

    def _identity(self, name: str, operand: object, pointer: str) -> None:
        if not isinstance(operand, str):
            self._refuse(pointer, "is not a string")
        elif name == "$schema" and not _DRAFT.fullmatch(operand):
            self._refuse(pointer, "is not draft-07")


def escape(member: str) -> str:
    """Return `member` as a reference token of a JSON pointer (RFC 6901)."""
    return member.replace("~", "~0").replace("/", "~1")


def _simplify(node: dict[str, Any]) -> None:
    """Remove keywords that have no effect by draft-07, and make `type` a sorted list."""
    node.pop("definitions", None)
    if "$ref" in node:
        for name in node.keys() - {"$ref"}:
            del node[name]
        return
    if "if" not in node or not {"then", "else"} & node.keys():
        for name in ("if", "then", "else"):
            node.pop(name, None)
    if not isinstance(node.get("items"), list):
        node.pop("additionalItems", None)
    if "type" in node:
        node["type"] = sorted([node["type"]] if isinstance(node["type"], str) else node["type"])
    for name, neutral in _NEUTRAL.items():
        if name in node and node[name] == neutral and type(node[name]) is type(neutral):
            del node[name]


_NEUTRAL: Final[Mapping[str, object]] = MappingProxyType(
    {
        "required": [],
        "uniqueItems": False,
        "properties": {},
        "patternProperties": {},
        "dependencies": {},
        "additionalProperties": True,
        "additionalItems": True,
        "items": True,
        "propertyNames": True,
        "minLength": 0,
        "minBytes": 0,
        "minGraphemes": 0,
        "minItems": 0,
        "minProperties": 0,
    }
)
"""Operands that make their keyword accept every value."""
