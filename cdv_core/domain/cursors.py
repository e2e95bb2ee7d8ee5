"""Cursors: opaque tokens from which a listing continues.

Unpadded base64url of the JSON `{"lastIndexedAt", "lastRkey"}`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Self

import msgspec

from cdv_core.domain.identifiers import is_ulid
from cdv_core.domain.times import format_time, parse_time
from cdv_core.errors import CursorInvalid, InvalidField


class _Wire(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    last_indexed_at: str
    last_rkey: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """The position after a record: the next page begins below (`indexed_at`, `rkey`)."""

    indexed_at: datetime
    rkey: str

    def encode(self) -> str:
        return encode_cursor(format_time(self.indexed_at), str(self.rkey))

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return the cursor that `encode` returned as `text`. Raises CursorInvalid: also for any other encoding."""
        try:
            wire = msgspec.json.decode(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", True), type=_Wire)
            cursor = cls(parse_time(wire.last_indexed_at, "lastIndexedAt"), wire.last_rkey)
        except (binascii.Error, ValueError, msgspec.MsgspecError, InvalidField) as error:
            raise CursorInvalid("not a cursor of this vault") from error
        if not is_ulid(cursor.rkey) or cursor.encode() != text:
            raise CursorInvalid("not a cursor of this vault")
        return cursor


def encode_cursor(indexed_at: str, rkey: str) -> str:
    """Return the cursor after a record whose `indexed_at` is already formatted by `format_time`."""
    return base64.urlsafe_b64encode(msgspec.json.encode(_Wire(indexed_at, rkey))).decode().rstrip("=")
