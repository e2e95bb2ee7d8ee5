"""The verifier of bearer tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cdv_core.domain.identifiers import Did


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    subject: Did
    expires_at: datetime


class TokenVerifier(Protocol):
    async def verify(self, token: str) -> VerifiedToken:
        """Verify the token and return its subject. `token`: the JWT in compact form, untrusted.

        Raises: TokenMalformed: not three base64url parts, a header that is not a JSON object, or no `kid`.
        TokenExpired: correctly signed and past `exp`. TokenInvalid: every other failure, including an unknown key.
        Unavailable: the issuer's keys cannot be fetched, and none are cached.
        """
        ...
