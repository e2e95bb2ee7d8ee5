"""Identifiers: DIDs, collections, record keys and record URIs. Parsed once, at the edge, and valid from then on."""

from __future__ import annotations

import re
from typing import Final, Self

import msgspec

from cdv_core.domain.characters import plain_str
from cdv_core.domain.limits import DID_MAX_CHARS, NSID_MAX_CHARS, RECORD_KEY_MAX_CHARS
from cdv_core.errors import InvalidField

# https://www.w3.org/TR/did-core/#did-syntax, with one idchar required after the last colon.
DID_SYNTAX: Final = re.compile(
    r"did:[a-z0-9]+:(?:[A-Za-z0-9._:-]|%[0-9A-Fa-f]{2})*(?:[A-Za-z0-9._-]|%[0-9A-Fa-f]{2})", re.ASCII
)
NSID_SYNTAX: Final = re.compile(
    r"[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+"
    r"\.[A-Za-z][A-Za-z0-9]{0,62}",
    re.ASCII,
)
# Excludes "." and "..": up to two leading dots need another character, or a third dot, after them.
RECORD_KEY_SYNTAX: Final = re.compile(r"(?:\.{0,2}[A-Za-z0-9_:~-]|\.{3})[A-Za-z0-9._:~-]*", re.ASCII)
# The timestamp has 48 bits, so the first of the 26 Crockford characters is at most 7.
ULID_SYNTAX: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)


class Did(str):
    """A decentralised identifier, at most 2048 characters, compared byte for byte."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, field: str = "did") -> Self:
        """Raises InvalidField: not a DID by the W3C syntax, or too long."""
        if len(text) > DID_MAX_CHARS:
            raise InvalidField(field, f"must be a DID of at most {DID_MAX_CHARS} characters")
        if not DID_SYNTAX.fullmatch(text):
            raise InvalidField(field, "must be a DID (did:<method>:<id>)")
        return cls(plain_str(text))


class Nsid(str):
    """A collection's name: a reversed domain and a name, such as com.registryaccord.feed.post."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, field: str = "collection") -> Self:
        """Raises InvalidField: not an NSID."""
        if len(text) > NSID_MAX_CHARS or not NSID_SYNTAX.fullmatch(text):
            raise InvalidField(field, "must be an NSID (such as com.example.feed.post)")
        return cls(plain_str(text))


class RecordKey(str):
    """A record's key within its collection. The keys that this vault assigns are ULIDs."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, field: str = "rkey") -> Self:
        """Raises InvalidField: empty, too long, `.`, `..`, or a character outside A-Z a-z 0-9 . _ : ~ -"""
        if len(text) > RECORD_KEY_MAX_CHARS or not RECORD_KEY_SYNTAX.fullmatch(text):
            raise InvalidField(
                field,
                f"must be a record key: 1 to {RECORD_KEY_MAX_CHARS} of A-Z a-z 0-9 . _ : ~ -, and not . or ..",
            )
        return cls(plain_str(text))


class AssetId(str):
    """A media asset's id: a ULID."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, field: str = "assetId") -> Self:
        """Raises InvalidField: not a ULID."""
        if not is_ulid(text):
            raise InvalidField(field, "must be a media asset id (a ULID)")
        return cls(plain_str(text))


def is_ulid(text: str) -> bool:
    return ULID_SYNTAX.fullmatch(text) is not None


class RecordUri(msgspec.Struct, frozen=True):
    """A record's URI. `str()` returns it as `at://{did}/{collection}/{rkey}`."""

    did: Did
    collection: Nsid
    rkey: RecordKey

    def __str__(self) -> str:
        return f"at://{self.did}/{self.collection}/{self.rkey}"

    @classmethod
    def parse(cls, text: str, field: str = "uri") -> Self:
        """Raises InvalidField: not `at://`, or not exactly a DID, an NSID and a record key."""
        parts = text.removeprefix("at://").split("/")
        if not text.startswith("at://") or len(parts) != 3:
            raise InvalidField(field, "must be a record URI (at://<did>/<collection>/<rkey>)")
        return cls(Did.parse(parts[0], field), Nsid.parse(parts[1], field), RecordKey.parse(parts[2], field))
