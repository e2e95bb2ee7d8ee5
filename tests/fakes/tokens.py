"""A token verifier without cryptography: it accepts the tokens that it issued."""

from __future__ import annotations

from datetime import timedelta

from cdv_core.domain.identifiers import Did
from cdv_core.domain.tokens import base64url, check_expiry, read_token
from cdv_core.errors import CdvError, TokenInvalid
from cdv_core.ports.clock import Clock
from cdv_core.ports.tokens import VerifiedToken


class FakeTokenVerifier:
    """Accepts the tokens of its `issue`. `error`, if set, is raised by every `verify`, like an issuer that is down."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._issued: dict[str, VerifiedToken] = {}
        self.error: CdvError | None = None

    def issue(self, subject: str, ttl_seconds: int = 3600) -> str:
        number = b"%d" % len(self._issued)
        parts = b'{"alg":"EdDSA","kid":"fake"}', b'{"jti":%s}' % number, b"signature %s" % number
        token = ".".join(map(base64url, parts))
        expires_at = self._clock.now() + timedelta(seconds=ttl_seconds)
        self._issued[token] = VerifiedToken(Did.parse(subject), expires_at)
        return token

    async def verify(self, token: str) -> VerifiedToken:
        if self.error is not None:
            raise self.error
        read_token(token)
        if token not in self._issued:
            raise TokenInvalid("not issued by this fake")
        verified = self._issued[token]
        check_expiry(verified.expires_at, self._clock.now())
        return verified
