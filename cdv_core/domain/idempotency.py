"""Idempotency: the key that a client gives a request, and the fingerprint that tells whether two are equal."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Final, Self

import msgspec

from cdv_core.domain.characters import plain_str
from cdv_core.domain.limits import IDEMPOTENCY_KEY_MAX_CHARS
from cdv_core.domain.times import format_time
from cdv_core.errors import InvalidField

IDEMPOTENCY_KEY_SYNTAX: Final = re.compile(r"[\x21-\x7e]+")


class IdempotencyKey(str):
    """A client-chosen key for one request: 1 to 255 visible ASCII characters, scoped by the DID."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, field: str = "idempotencyKey") -> Self:
        """Raises InvalidField: empty, too long, or a character that is not visible ASCII."""
        if len(text) > IDEMPOTENCY_KEY_MAX_CHARS or not IDEMPOTENCY_KEY_SYNTAX.fullmatch(text):
            raise InvalidField(field, f"must be 1 to {IDEMPOTENCY_KEY_MAX_CHARS} visible ASCII characters")
        return cls(plain_str(text))


def request_fingerprint(*, collection: str, cid: str, created_at: datetime | None, schema_version: str | None) -> bytes:
    """Return 32 raw bytes that are equal for equivalent requests.

    The record is represented by its CID, which ignores member order and number formatting; `created_at` by its instant.
    """
    claimed = None if created_at is None else format_time(created_at)
    return hashlib.sha256(msgspec.json.encode([str(collection), cid, claimed, schema_version])).digest()
