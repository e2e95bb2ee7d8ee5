"""The canonical form of a record: one value has one encoding and one CID, however its JSON was written.

Numbers follow JSON semantics: without a fractional part they are integers (`1`, `1.0` and `1e0` are one value). A
number that is not exactly an integer is rounded to the nearest double, which becomes an integer if it is one, so that
decoding and encoding again changes nothing. Member order is preserved in the JSON and ignored in the CID: DAG-CBOR
sorts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import libipld
import msgspec

from cdv_core.domain.characters import plain_str
from cdv_core.domain.limits import INTEGER_MAX, INTEGER_MIN, RECORD_MAX_BYTES, RECORD_NESTING_MAX
from cdv_core.errors import InvalidField

# Below this limit a double with an integral value is exactly the integer that was written; above it, integers collide.
_EXACT_DOUBLE_MAX: Final = 2.0**53
# In compact JSON, each member or element takes at least two bytes: a record with more of them is too large.
_ELEMENTS_MAX: Final = RECORD_MAX_BYTES // 2
# CIDv1, codec dag-cbor (0x71), multihash sha2-256 (0x12) of 32 bytes.
_CID_PREFIX: Final = b"\x01\x71\x12\x20"


class CanonicalRecord(msgspec.Struct, frozen=True):
    """A record value ready to store. `json`: compact UTF-8, as every reader gets it. `cid`: base32, `bafyrei...`."""

    value: dict[str, Any]
    json: bytes
    cid: str


def canonical_record(value: Mapping[str, Any], field: str = "record") -> CanonicalRecord:
    """Return the canonical form of `value`, which consists of mappings, lists, strings, numbers, booleans and None.

    Raises InvalidField, with the pointer to the offending member: an integer outside 64 bits, a number that is not
    finite, a string with U+0000 or a lone surrogate, nesting deeper than 32, a type that JSON lacks, or a record that
    is too large.
    """
    if not isinstance(value, Mapping):
        raise InvalidField(field, "must be a JSON object")
    try:
        normal = _normal(value, RECORD_NESTING_MAX, _Budget())
    except _Refused as refused:
        pointer = "".join("/" + _step(key).replace("~", "~0").replace("/", "~1") for key in reversed(refused.path))
        raise InvalidField(field + _printable(pointer), refused.reason) from None
    except _TooLarge:
        raise InvalidField(field, f"must be at most {RECORD_MAX_BYTES} bytes as compact JSON") from None
    encoded = msgspec.json.encode(normal)
    if len(encoded) > RECORD_MAX_BYTES:
        raise InvalidField(field, f"must be at most {RECORD_MAX_BYTES} bytes as compact JSON, and is {len(encoded)}")
    return CanonicalRecord(normal, encoded, cid_of(normal))


def cid_of(value: object) -> str:
    """Return the CIDv1 of a value already in canonical form."""
    digest = hashlib.sha256(libipld.encode_dag_cbor(value)).digest()
    return libipld.encode_cid(_CID_PREFIX + digest)


def parse_number(text: str) -> int | float:
    """Return the value of a JSON number written with a fraction or an exponent; infinity when it overflows.

    For a decoder's float hook: a float loses digits of integers beyond 2^53.
    """
    number = float(text)
    if not number.is_integer():
        return number
    if abs(number) < _EXACT_DOUBLE_MAX or abs(number) > INTEGER_MAX * 2:
        return int(number)
    exact = Decimal(text)
    return int(exact) if exact == exact.to_integral_value() else int(number)


class _Refused(Exception):
    """An invalid value. `path` is collected from the value outwards while the recursion unwinds."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str | int] = []


class _Budget:
    """Bounds the work for a record that is too large: `spend` raises once it has more than _ELEMENTS_MAX elements."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _ELEMENTS_MAX

    def spend(self, elements: int) -> None:
        self._left -= elements
        if self._left < 0:
            raise _TooLarge


class _TooLarge(Exception):
    """The record exceeds RECORD_MAX_BYTES, whatever its elements are."""


def _normal(value: object, levels: int, budget: _Budget) -> Any:  # noqa: ANN401 - JSON has no narrower type
    kind = type(value)
    # First the exact types that a JSON decoder returns: isinstance with an abstract class costs as much as the rest.
    if kind is str:
        return _text(value)  # type: ignore[arg-type] # checked by `kind`
    if value is None or kind is bool:
        return value
    if kind is int:
        return _integer(value)  # type: ignore[arg-type]
    if kind is dict:
        return _normal_object(value, levels, budget)  # type: ignore[arg-type]
    if isinstance(value, list | tuple):
        return _normal_array(value, levels, budget)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Refused("must be a finite number")
        return _integer(int(value)) if value.is_integer() else float(value)
    # Subtypes, which an embedding program may pass, are converted to the JSON types.
    if isinstance(value, Mapping):
        return _normal_object(value, levels, budget)
    if isinstance(value, str):
        return _text(plain_str(value))
    if isinstance(value, int):
        return _integer(int(value))
    raise _Refused(f"must be a JSON value; {kind.__name__} is not a JSON type")


def _normal_object(value: Mapping[Any, object], levels: int, budget: _Budget) -> dict[str, Any]:
    if levels == 0:
        raise _Refused(f"must not nest more than {RECORD_NESTING_MAX} levels deep")
    budget.spend(len(value))
    normal: dict[str, Any] = {}
    for key, member in value.items():
        try:
            name = _text(key) if type(key) is str else _member_name(key)
            normal[name] = _normal(member, levels - 1, budget)
        except _Refused as refused:
            refused.path.append(key)
            raise
    return normal


def _normal_array(value: list[object] | tuple[object, ...], levels: int, budget: _Budget) -> list[Any]:
    if levels == 0:
        raise _Refused(f"must not nest more than {RECORD_NESTING_MAX} levels deep")
    budget.spend(len(value))
    normal: list[Any] = []
    for index, element in enumerate(value):
        try:
            normal.append(_normal(element, levels - 1, budget))
        except _Refused as refused:
            refused.path.append(index)
            raise
    return normal


def _member_name(key: object) -> str:
    if not isinstance(key, str):
        raise _Refused("member names must be strings")
    return _text(plain_str(key))


def _integer(value: int) -> int:
    if not INTEGER_MIN <= value <= INTEGER_MAX:
        raise _Refused("must fit in a signed 64-bit integer")
    return value


def _text(text: str) -> str:
    if "\x00" in text:
        raise _Refused("must not contain U+0000")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Refused("must be valid Unicode, without lone surrogates") from None
    return text


def _printable(pointer: str) -> str:
    """Return `pointer` as valid Unicode of at most 256 characters: a member name may be what is invalid."""
    return pointer.encode("utf-8", "backslashreplace").decode()[:256]


def _step(key: object) -> str:
    return plain_str(key) if isinstance(key, str) else str(key)
