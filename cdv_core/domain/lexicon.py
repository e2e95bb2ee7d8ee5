"""Lexicon: translate AT Protocol's schema language, version 1, to JSON Schema.

docs/schemas.md documents the mapping. What JSON Schema cannot express is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.json_schema import SCHEMA_NESTING_MAX, SchemaRefused, escape
from cdv_core.errors import InvalidField

Json = dict[str, Any]

# Lexicon's string formats -> JSON Schema formats.
_FORMATS: Final = MappingProxyType(
    {name: name for name in (
        "at-identifier", "at-uri", "cid", "did", "handle", "language", "nsid", "record-key", "tid", "uri"
    )}
    | {"datetime": "date-time"}
)  # fmt: skip
_MIME_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/(?:\*|[A-Za-z0-9!#$&^_.+-]+)|\*/\*", re.ASCII)
_BASE64: Final = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}(?:==)?|[A-Za-z0-9+/]{3}=?)?$"

_CID_LINK: Final = MappingProxyType(
    {
        "type": "object",
        "required": ["$link"],
        "properties": {"$link": {"type": "string", "format": "cid"}},
        "additionalProperties": False,
    }
)


def is_lexicon(document: object) -> bool:
    """Return whether `document` declares itself a Lexicon, of any version."""
    return isinstance(document, dict) and "lexicon" in document


def translate(document: object, collection: Nsid, others: Mapping[str, object]) -> Json:
    """Return the JSON Schema of the records that the Lexicon `document` defines for `collection`.

    `others`: the other Lexicons that it may refer to, by id.

    Raises SchemaRefused: not a Lexicon of version 1, not exactly one record, or something that cannot be expressed.
    """
    return _Translation(document, collection, others).run()


class _Translation:
    def __init__(self, document: object, collection: Nsid, others: Mapping[str, object]) -> None:
        self._document = document
        self._id = collection
        self._others = others
        self._reasons: list[str] = []
        self._depth = 0
        self._definitions: dict[str, Json] = {}
        self._waiting: list[tuple[str, Nsid, Any, str]] = []

    def run(self) -> Json:
        defs = self._defs(self._document, self._id)
        root = self._record(defs)
        while self._waiting:
            key, home, definition, where = self._waiting.pop()
            self._definitions[key] = self._definition(definition, home, where)
        if self._reasons:
            raise SchemaRefused(self._reasons)
        return {**root, "definitions": self._definitions}

    def _refuse(self, where: str, reason: str) -> Json:
        self._reasons.append(f"{where} {reason}")
        return {}

    def _defs(self, document: object, name: Nsid) -> Json:
        if not isinstance(document, dict) or document.get("lexicon") != 1 or isinstance(document["lexicon"], bool):
            return self._refuse(f"{name}", "is not a Lexicon of version 1")
        if document.get("id") != name:
            return self._refuse("/id", f"is {document.get('id')!r}, and the document is listed as {name}")
        defs = document.get("defs")
        return defs if isinstance(defs, dict) else self._refuse(f"{name}: /defs", "is not an object")

    def _record(self, defs: Json) -> Json:
        """Translate the record: the definition `main` or `record` of type record, or a `record` of type object."""
        found = [
            name
            for name in ("main", "record")
            if isinstance(defs.get(name), dict) and defs[name].get("type") == "record"
        ]
        if not found and isinstance(defs.get("record"), dict) and defs["record"].get("type") == "object":
            found = ["record"]
        if len(found) != 1:
            return self._refuse("/defs", "defines two records" if found else "defines no record") if defs else {}
        return self._definition(defs[found[0]], self._id, f"/defs/{found[0]}")

    def _definition(self, definition: object, home: Nsid, where: str) -> Json:
        """Translate an entry of `defs`."""
        if isinstance(definition, dict) and definition.get("type") == "record":
            self._only(definition, where, "key", "record")
            record = definition.get("record")
            if not isinstance(record, dict) or record.get("type") != "object":
                return self._refuse(f"{where}/record", "is not an object definition")
            return self._field(record, home, f"{where}/record")
        return self._field(definition, home, where)

    def _field(self, field: object, home: Nsid, where: str) -> Json:
        kind = field.get("type") if isinstance(field, dict) else None
        translator = self._TRANSLATORS.get(kind) if isinstance(kind, str) else None
        if translator is None or not isinstance(field, dict):
            return self._refuse(where, f"has the type {kind!r}, which cannot be expressed")
        if self._depth == SCHEMA_NESTING_MAX:
            return self._refuse(where, f"nests more than {SCHEMA_NESTING_MAX} fields")
        self._depth += 1
        try:
            return translator(self, field, home, where)
        finally:
            self._depth -= 1

    def _only(self, field: Json, where: str, *allowed: str) -> None:
        """Refuse members of `field` that are not `allowed`."""
        for name in field.keys() - {"type", "description", *allowed}:
            self._refuse(f"{where}/{escape(name)}", "cannot be expressed")

    def _object(self, field: Json, home: Nsid, where: str) -> Json:
        self._only(field, where, "required", "nullable", "properties")
        properties = field.get("properties", {})
        required, nullable = field.get("required", []), field.get("nullable", [])
        if not isinstance(properties, dict) or not _are_names(required) or not _are_names(nullable):
            return self._refuse(where, "needs properties as an object, required and nullable as arrays of names")
        for name in (*required, *nullable):
            if name not in properties:
                self._refuse(where, f"requires or makes nullable {name!r}, which is not among its properties")
        translated = {
            name: self._field(member, home, f"{where}/properties/{escape(name)}") for name, member in properties.items()
        }
        for name in nullable:
            translated[name] = {"anyOf": [{"type": "null"}, translated.get(name, {})]}
        return {"type": "object", "required": required, "properties": translated}

    def _string(self, field: Json, _: Nsid, where: str) -> Json:
        self._only(
            field, where, "format", "minLength", "maxLength", "minGraphemes", "maxGraphemes", "knownValues", "enum",
            "const", "default",
        )  # fmt: skip
        schema = {"type": "string", **_values(field)}
        if "format" in field:
            if field["format"] not in _FORMATS:
                self._refuse(f"{where}/format", f"{field['format']!r} is not a format that is enforced here")
            schema["format"] = _FORMATS.get(field["format"], "did")
        # Lexicon measures string lengths in UTF-8 bytes.
        for theirs, ours in (("minLength", "minBytes"), ("maxLength", "maxBytes")):
            if theirs in field:
                schema[ours] = field[theirs]
        return schema | {name: field[name] for name in ("minGraphemes", "maxGraphemes") if name in field}

    def _integer(self, field: Json, _: Nsid, where: str) -> Json:
        self._only(field, where, "minimum", "maximum", "enum", "const", "default")
        bounds: Json = {name: field[name] for name in ("minimum", "maximum") if name in field}
        return {"type": "integer", **bounds, **_values(field)}

    def _boolean(self, field: Json, _: Nsid, where: str) -> Json:
        self._only(field, where, "const", "default")
        return {"type": "boolean", **_values(field)}

    def _null(self, field: Json, _: Nsid, where: str) -> Json:
        self._only(field, where)
        return {"type": "null"}

    def _unknown(self, field: Json, _: Nsid, where: str) -> Json:
        self._only(field, where)
        return {"type": "object"}

    def _array(self, field: Json, home: Nsid, where: str) -> Json:
        self._only(field, where, "items", "minLength", "maxLength")
        schema = {"type": "array", "items": self._field(field.get("items"), home, f"{where}/items")}
        for theirs, ours in (("minLength", "minItems"), ("maxLength", "maxItems")):
            if theirs in field:
                schema[ours] = field[theirs]
        return schema

    def _cid_link(self, field: Json, _: Nsid, where: str) -> Json:
        self._only(field, where)
        return dict(_CID_LINK)

    def _bytes(self, field: Json, _: Nsid, where: str) -> Json:
        self._only(field, where, "minLength", "maxLength")
        limits: list[Json] = []
        for name in ("minLength", "maxLength"):
            count = field.get(name)
            if count is not None and (type(count) is not int or count < 0):
                self._refuse(f"{where}/{name}", "is not a whole number from 0")
            elif count is not None and name == "maxLength":
                limits.append(_base64_of_at_most(count))
            elif count:
                limits.append({"not": _base64_of_at_most(count - 1)})
        text = {"type": "string", "pattern": _BASE64} | ({"allOf": limits} if limits else {})
        return {"type": "object", "required": ["$bytes"], "properties": {"$bytes": text}, "additionalProperties": False}

    def _blob(self, field: Json, _: Nsid, where: str) -> Json:
        self._only(field, where, "accept", "maxSize")
        size = {"type": "integer", "minimum": 0} | ({"maximum": field["maxSize"]} if "maxSize" in field else {})
        mime_type: Json = {"type": "string"}
        if "accept" in field:
            accept = field["accept"]
            if not _are_names(accept) or not all(_MIME_TYPE.fullmatch(text) for text in accept):
                return self._refuse(f"{where}/accept", "is not an array of media types")
            mime_type["pattern"] = f"^(?:{'|'.join(map(_media_range, accept))})$"
        return {
            "type": "object",
            "required": ["$type", "ref", "mimeType", "size"],
            "properties": {"$type": {"const": "blob"}, "ref": dict(_CID_LINK), "mimeType": mime_type, "size": size},
        }

    def _ref(self, field: Json, home: Nsid, where: str) -> Json:
        self._only(field, where, "ref")
        _, schema = self._target(field.get("ref"), home, f"{where}/ref")
        return schema

    def _union(self, field: Json, home: Nsid, where: str) -> Json:
        self._only(field, where, "refs", "closed")
        refs, closed = field.get("refs"), field.get("closed", False)
        if not isinstance(refs, list) or not isinstance(closed, bool):
            return self._refuse(where, "needs refs as an array, and closed as true or false")
        targets = [self._target(ref, home, f"{where}/refs/{index}") for index, ref in enumerate(refs)]
        names = [name for name, _ in targets]
        kind = {"type": "string", **({"enum": names} if closed else {})}
        # A value without $type matches no case, and gets only the violation that $type is required.
        cases = [
            {"if": {"required": ["$type"], "properties": {"$type": {"const": name}}}, "then": schema}
            for name, schema in targets
        ]
        union = {"type": "object", "required": ["$type"], "properties": {"$type": kind}}
        return {**union, "allOf": cases} if cases else union

    def _target(self, ref: object, home: Nsid, where: str) -> tuple[str, Json]:
        """Return the full name of the definition that `ref`, in the document `home`, refers to, and a schema for it."""
        if not isinstance(ref, str):
            return "", self._refuse(where, "is not a reference")
        prefix, _, name = ref.partition("#")
        name = name or "main"
        try:
            document_id = Nsid.parse(prefix) if prefix else home
        except InvalidField:
            return ref, self._refuse(where, f"{ref!r} is not a reference")
        full = document_id if name == "main" else f"{document_id}#{name}"
        definition = self._find(document_id, name)
        if definition is None:
            return full, self._refuse(where, f"{ref!r} is not in the catalogue")
        if full not in self._definitions:
            self._definitions[full] = {}
            self._waiting.append((full, document_id, definition, f"{document_id}: /defs/{escape(name)}"))
        return full, {"$ref": f"#/definitions/{escape(full)}"}

    def _find(self, document_id: Nsid, name: str) -> object | None:
        document = self._document if document_id == self._id else self._others.get(document_id)
        if document is None:
            return None
        return self._defs(document, document_id).get(name)

    _TRANSLATORS: Final[Mapping[str, Callable[[_Translation, Json, Nsid, str], Json]]] = MappingProxyType(
        {
            "array": _array,
            "blob": _blob,
            "boolean": _boolean,
            "bytes": _bytes,
            "cid-link": _cid_link,
            "integer": _integer,
            "null": _null,
            "object": _object,
            "ref": _ref,
            "string": _string,
            "union": _union,
            "unknown": _unknown,
        }
    )


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _values(field: Json) -> Json:
    return {name: field[name] for name in ("enum", "const") if name in field}


def _media_range(text: str) -> str:
    """Return the pattern of a media type or a range such as `image/*` or `*/*`."""
    return "/".join("[^/ ;]+" if part == "*" else re.sub(r"([.+^$])", r"\\\1", part) for part in text.split("/"))


def _base64_of_at_most(byte_count: int) -> Json:
    """Return the schema of base64 texts, padded or not, that encode at most `byte_count` bytes."""
    groups, spare = -(-byte_count // 3), -byte_count % 3
    if not spare:
        return {"maxLength": 4 * groups}
    # The last group is incomplete: unpadded it is shorter, padded it ends in as many equals signs.
    return {"anyOf": [{"maxLength": 4 * groups - spare}, {"maxLength": 4 * groups, "pattern": "=" * spare + "$"}]}
