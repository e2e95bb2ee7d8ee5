"""Formats: the `format` keyword's checks. Each is a predicate on the string.

No regular expression here can backtrack: the next character always decides whether a repetition ends.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import date
from types import MappingProxyType
from typing import Final

from cdv_core.domain.identifiers import Did, Nsid, RecordKey
from cdv_core.domain.times import parse_time
from cdv_core.errors import InvalidField

_HANDLE_MAX_CHARS: Final = 253  # AT Protocol handle syntax, from DNS
_CID_MAX_CHARS: Final = 256  # ours: a 64-byte digest needs 115

_BASE32: Final = re.compile(r"[a-z2-7]+", re.ASCII)  # RFC 4648, as multibase `b` writes it
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_HANDLE: Final = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII
)
_TID: Final = re.compile(r"[234567a-j][234567a-z]{12}", re.ASCII)  # AT Protocol TID syntax

# RFC 3986, section 3 and appendix A.
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*", re.ASCII)
_URI_CHARACTERS: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_USERINFO: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_REG_NAME: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", re.ASCII)
_IP_FUTURE: Final = re.compile(r"[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+", re.ASCII)
_PORT: Final = re.compile(r"[0-9]*", re.ASCII)

# RFC 5646, section 2.1, the grandfathered tags beside the regular grammar.
_LANGUAGE: Final = re.compile(
    r"(?:(?:[A-Za-z]{2,3}(?:-[A-Za-z]{3}){0,3}|[A-Za-z]{4,8})"
    r"(?:-[A-Za-z]{4})?(?:-(?:[A-Za-z]{2}|[0-9]{3}))?"
    r"(?:-(?:[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3}))*"
    r"(?:-[0-9A-WY-Za-wy-z](?:-[A-Za-z0-9]{2,8})+)*"
    r"(?:-[xX](?:-[A-Za-z0-9]{1,8})+)?"
    r"|[xX](?:-[A-Za-z0-9]{1,8})+)",
    re.ASCII,
)
_GRANDFATHERED: Final = re.compile(
    r"en-gb-oed|i-(?:ami|bnn|default|enochian|hak|klingon|lux|mingo|navajo|pwn|tao|tay|tsu)|sgn-(?:be-fr|be-nl|ch-de)",
    re.ASCII | re.IGNORECASE,
)


def is_did(text: str) -> bool:
    return _parses(Did.parse, text)


def is_nsid(text: str) -> bool:
    return _parses(Nsid.parse, text)


def is_record_key(text: str) -> bool:
    return _parses(RecordKey.parse, text)


def is_handle(text: str) -> bool:
    """A domain name of two or more labels, the last not beginning with a digit."""
    return len(text) <= _HANDLE_MAX_CHARS and _HANDLE.fullmatch(text) is not None


def is_at_identifier(text: str) -> bool:
    """A DID or a handle."""
    return is_did(text) if text.startswith("did:") else is_handle(text)


def is_at_uri(text: str) -> bool:
    """`at://` and a DID or handle, optionally followed by a collection, optionally by a record key."""
    parts = text.removeprefix("at://").split("/", 3)
    if not text.startswith("at://") or len(parts) > 3:
        return False
    checks = (is_at_identifier, is_nsid, is_record_key)
    return all(check(part) for check, part in zip(checks, parts, strict=False))


def is_tid(text: str) -> bool:
    return _TID.fullmatch(text) is not None


def is_date_time(text: str) -> bool:
    """RFC 3339 with an offset: an existing date and time, or a leap second at the end of a UTC day."""
    leap = text[17:19] == "60"
    try:
        moment = parse_time(f"{text[:17]}59{text[19:]}" if leap else text, "")
    except InvalidField:
        return False
    return not leap or (moment.hour, moment.minute) == (23, 59)


def is_date(text: str) -> bool:
    """RFC 3339 full-date: an existing day."""
    if not _DATE.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def is_uri(text: str) -> bool:
    """RFC 3986 URI, which requires a scheme; characters outside ASCII must be percent-encoded."""
    scheme, colon, rest = text.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        return False
    hierarchy, _, fragment = rest.partition("#")
    if not _URI_CHARACTERS.fullmatch(fragment):
        return False
    before_query, _, query = hierarchy.partition("?")
    if not _URI_CHARACTERS.fullmatch(query):
        return False
    if not before_query.startswith("//"):
        return _URI_CHARACTERS.fullmatch(before_query) is not None
    authority, _, path = before_query[2:].partition("/")
    return _is_authority(authority) and _URI_CHARACTERS.fullmatch(path) is not None


def _is_authority(text: str) -> bool:
    userinfo, _, host_and_port = text.rpartition("@")
    if not _USERINFO.fullmatch(userinfo):
        return False
    if not host_and_port.startswith("["):
        host, _, port = host_and_port.partition(":")
        return _REG_NAME.fullmatch(host) is not None and _PORT.fullmatch(port) is not None
    literal, bracket, rest = host_and_port[1:].partition("]")
    if not bracket or (rest and not rest.startswith(":")) or not _PORT.fullmatch(rest[1:]):
        return False
    return is_ipv6(literal) or _IP_FUTURE.fullmatch(literal) is not None


def is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return text.isascii()


def is_ipv6(text: str) -> bool:
    """RFC 4291 text form, without a zone."""
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text and text.isascii()


def is_language(text: str) -> bool:
    """A well-formed BCP 47 tag; whether its subtags are registered is not checked."""
    return _LANGUAGE.fullmatch(text) is not None or _GRANDFATHERED.fullmatch(text) is not None


def is_cid(text: str) -> bool:
    """CIDv1 in lower-case base32 (`bafy...`), with a digest of the stated length; any codec and hash function."""
    body = text[1:]
    if not text.startswith("b") or len(text) > _CID_MAX_CHARS or not _BASE32.fullmatch(body):
        return False
    try:
        raw = base64.b32decode(body.upper() + "=" * (-len(body) % 8))
    except ValueError:
        return False
    if base64.b32encode(raw).decode().lower().rstrip("=") != body:
        return False  # non-zero spare bits: a second encoding of the same CID
    return _is_cid_v1(raw)


def _is_cid_v1(raw: bytes) -> bool:
    numbers = []
    for _ in range(4):  # version, codec, hash function, digest length
        number, raw = _varint(raw)
        numbers.append(number)
    return numbers[0] == 1 and numbers[3] == len(raw)


def _varint(raw: bytes) -> tuple[int, bytes]:
    """Return a minimally encoded LEB128 number of up to nine bytes and the bytes after it, or -1 and no bytes."""
    for length, byte in enumerate(raw[:9], 1):
        if byte < 0x80:
            if byte == 0 and length > 1:
                break
            return sum((octet & 0x7F) << 7 * index for index, octet in enumerate(raw[:length])), raw[length:]
    return -1, b""


def _parses(parse: Callable[[str, str], object], text: str) -> bool:
    try:
        parse(text, "")
    except InvalidField:
        return False
    return True


FORMATS: Final[Mapping[str, Callable[[str], bool]]] = MappingProxyType(
    {
        "at-identifier": is_at_identifier,
        "at-uri": is_at_uri,
        "cid": is_cid,
        "date": is_date,
        "date-time": is_date_time,
        "did": is_did,
        "handle": is_handle,
        "ipv4": is_ipv4,
        "ipv6": is_ipv6,
        "language": is_language,
        "nsid": is_nsid,
        "record-key": is_record_key,
        "tid": is_tid,
        "uri": is_uri,
    }
)
"""Every supported `format`, by name."""
