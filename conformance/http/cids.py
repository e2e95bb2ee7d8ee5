"""CIDs of JSON values, implemented independently from the contract: canonical DAG-CBOR, SHA-256, CIDv1, base32."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any

_DAG_CBOR_SHA256 = bytes([0x01, 0x71, 0x12, 0x20])  # CIDv1, codec dag-cbor, hash function SHA-256, length of the hash
_UINT, _NEGATIVE, _TEXT, _ARRAY, _MAP = 0, 1, 3, 4, 5  # RFC 8949 §3.1


def cid_of(value: Any) -> str:
    """Return the CID of a decoded JSON value. A float without a fractional part counts as an integer."""
    digest = hashlib.sha256(dag_cbor(value)).digest()
    return "b" + base64.b32encode(_DAG_CBOR_SHA256 + digest).decode().rstrip("=").lower()


def dag_cbor(value: Any) -> bytes:
    """Return the canonical DAG-CBOR encoding of a JSON value: shortest heads, 64-bit floats, shortest keys first."""
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, float) and not value.is_integer():
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, int | float):
        number = int(value)
        return _head(_UINT, number) if number >= 0 else _head(_NEGATIVE, -1 - number)
    if isinstance(value, str):
        text = value.encode()
        return _head(_TEXT, len(text)) + text
    if isinstance(value, list):
        return _head(_ARRAY, len(value)) + b"".join(map(dag_cbor, value))
    members = sorted(
        ((name.encode(), member) for name, member in value.items()), key=lambda item: (len(item[0]), item[0])
    )
    return _head(_MAP, len(members)) + b"".join(
        _head(_TEXT, len(name)) + name + dag_cbor(member) for name, member in members
    )


def _head(kind: int, argument: int) -> bytes:
    first = kind << 5
    if argument < 24:
        return bytes([first | argument])
    for code, layout in ((24, ">B"), (25, ">H"), (26, ">I"), (27, ">Q")):
        if argument < 1 << 8 * struct.calcsize(layout):
            return bytes([first | code]) + struct.pack(layout, argument)
    raise ValueError("not a 64-bit integer")
