"""Strict parsing of compact JWTs and validation of their claims, before the signature is verified.

Nothing here proves authenticity: the caller must verify the signature too. Strict means a single accepted encoding:
base64url without padding or non-zero spare bits, UTF-8 JSON without repeated members, numbers of type number. Tokens
that two parsers read differently are a way to get forged tokens accepted.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cdv_core.domain.identifiers import Did
from cdv_core.domain.limits import CLOCK_SKEW
from cdv_core.domain.strict_json import RepeatedMember, decode_json
from cdv_core.errors import InvalidField, TokenExpired, TokenInvalid, TokenMalformed

TOKEN_MAX_CHARS: Final = 8192  # ours: room for a DID of 2048 characters in each claim that may hold one
# RFC 8037 and its successor RFC 9864 call the same signature by these two names.
_ALGORITHMS: Final = ("EdDSA", "Ed25519")
# Each would let the token control its own verification. We never use them, and refuse tokens that have them.
_REFUSED_HEADERS: Final = ("crit", "b64", "jwk", "jku", "x5u", "x5c")
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*", re.ASCII)
# An int: subtracting a float from an int of a thousand digits raises OverflowError.
_SKEW_SECONDS: Final = int(CLOCK_SKEW.total_seconds())
_CALENDAR_END: Final = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A parsed token. Its `claims` may be trusted only if `signature` is that of key `kid` over `signing_input`."""

    kid: str
    claims: Mapping[str, Any]
    signing_input: bytes
    signature: bytes


def read_token(text: str) -> UnverifiedToken:
    """Return the parts of a compact JWT whose header requires nothing but an Ed25519 signature.

    Raises: TokenMalformed: not three base64url parts, a header that is not a JSON object, or no `kid`.
    TokenInvalid: too long, another `alg`, a refused header, repeated members, non-zero spare bits, or no claims.
    """
    parts = text.split(".")
    if not _COMPACT.fullmatch(text) or any(len(part) % 4 == 1 for part in parts):
        raise TokenMalformed("not three base64url parts")
    if len(text) > TOKEN_MAX_CHARS:
        raise TokenInvalid(f"longer than {TOKEN_MAX_CHARS} characters")
    raw_header, raw_claims, signature = (_decode(part) for part in parts)
    try:
        header = read_json_object(raw_header)
    except RepeatedMember as error:
        raise TokenInvalid("the header repeats a member") from error
    except ValueError as error:
        raise TokenMalformed("the header is not a JSON object") from error
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise TokenMalformed("no kid")
    if [base64url(raw) for raw in (raw_header, raw_claims, signature)] != parts:
        raise TokenInvalid("a part is not canonical base64url")
    if header.get("alg") not in _ALGORITHMS:
        raise TokenInvalid("alg is not EdDSA")
    for name in _REFUSED_HEADERS:
        if name in header:
            raise TokenInvalid(f"the header {name} is refused")
    try:
        claims = read_json_object(raw_claims)
    except ValueError as error:
        raise TokenInvalid("the claims are not a JSON object, each member once") from error
    return UnverifiedToken(kid, claims, f"{parts[0]}.{parts[1]}".encode(), signature)


def read_claims(claims: Mapping[str, Any], *, issuer: str, audience: str, now: datetime) -> tuple[Did, datetime]:
    """Return the subject and the time of expiry, which may be past: see `check_expiry`.

    Raises TokenInvalid: another issuer or audience, a claim that is missing or of another type, a `sub` that is not a
    DID, an `exp` after the year 9999 (in milliseconds, for example), or an `nbf` or `iat` in the future.
    """
    if claims.get("iss") != issuer:
        raise TokenInvalid("iss is not the issuer trusted here")
    audiences = claims.get("aud")
    if isinstance(audiences, str):
        audiences = [audiences]
    if not isinstance(audiences, list) or not all(isinstance(each, str) for each in audiences):
        raise TokenInvalid("aud is not a string or a list of strings")
    if audience not in audiences:
        raise TokenInvalid("aud does not name this service")
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise TokenInvalid("sub is not a DID")
    try:
        did = Did.parse(subject, "sub")
    except InvalidField as error:
        raise TokenInvalid("sub is not a DID") from error
    for name in ("nbf", "iat"):
        if name in claims and _number(claims, name) - _SKEW_SECONDS > now.timestamp():
            raise TokenInvalid(f"{name} is in the future")
    expires = _number(claims, "exp")
    if expires > _CALENDAR_END:
        raise TokenInvalid("exp is beyond the year 9999")
    # Times before 1970 are expired too; clamping them keeps `fromtimestamp` within its range.
    return did, datetime.fromtimestamp(max(expires, 0), UTC)


def check_expiry(expires_at: datetime, now: datetime) -> None:
    """Raises TokenExpired: `expires_at` was at least the tolerated clock skew ago."""
    if now - expires_at >= CLOCK_SKEW:
        raise TokenExpired


def read_json_object(encoded: bytes) -> dict[str, Any]:
    """Return the object in `encoded`, UTF-8 JSON. Raises: RepeatedMember; ValueError: anything else."""
    value = decode_json(encoded)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - callers catch one kind
    return value


def base64url(raw: bytes) -> str:
    """Return `raw` in base64url without padding, as JOSE uses it."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _number(claims: Mapping[str, Any], name: str) -> int | float:
    value = claims.get(name)
    # In Python bool is an int, and 1e999 is the float inf: neither is a time.
    if isinstance(value, bool) or not isinstance(value, int | float) or value in (math.inf, -math.inf):
        raise TokenInvalid(f"{name} is not a number")
    return value
