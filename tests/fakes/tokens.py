"""A token verifier that believes what it was told, and in a token that says what is wrong with it."""

from __future__ import annotations

from datetime import timedelta

from cdv_core.domain.identifiers import Did
from cdv_core.domain.tokens import check_expiry
from cdv_core.errors import CdvError, TokenInvalid, TokenMalformed
from cdv_core.ports.clock import Clock
from cdv_core.ports.tokens import VerifiedToken


class FakeTokenVerifier:
    """Knows the tokens it issued. `error`, when set, is raised by every `verify`: an issuer that is away, say."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._issued: dict[str, VerifiedToken] = {}
        self.error: CdvError | None = None

    def issue(self, subject: str, ttl_seconds: int = 3600) -> str:
        token = f"fake.{len(self._issued)}.token"
        expires_at = self._clock.now() + timedelta(seconds=ttl_seconds)
        self._issued[token] = VerifiedToken(Did.parse(subject), expires_at)
        return token

    async def verify(self, token: str) -> VerifiedToken:
        if self.error is not None:
            raise self.error
        if token.count(".") != 2:
            raise TokenMalformed("not three parts")
        if token not in self._issued:
            raise TokenInvalid("not issued by this fake")
        verified = self._issued[token]
        check_expiry(verified.expires_at, self._clock.now())
        return verified
