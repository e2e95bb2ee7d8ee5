"""Verify a JWT: the contract's table (spec: authentication), for any way of finding the issuer's keys."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from cdv_adapters.tokens.ed25519 import PublicKey
from cdv_core.domain.tokens import check_expiry, read_claims, read_token
from cdv_core.errors import TokenInvalid
from cdv_core.ports.clock import Clock
from cdv_core.ports.tokens import VerifiedToken

# Return the key of that `kid`, None if the issuer has none. Raises: Unavailable: the keys cannot be had.
FindKey = Callable[[str], Awaitable[PublicKey | None]]

# ours: 14 MiB with DIDs of the usual length. Whoever is not among so many pays for a signature's verification.
REMEMBERED_TOKENS: Final = 32_768


class JwtVerifier:
    """A TokenVerifier over `find_key`. Remembers the tokens it proved, so that the next request costs a hash.

    What is remembered never outlives its token nor its key: the key is looked up and expiry is checked at each use.
    Refusals are not remembered, so that junk cannot push out what is good.
    """

    def __init__(
        self,
        find_key: FindKey,
        *,
        issuer: str,
        audience: str,
        clock: Clock,
        remembered_tokens: int = REMEMBERED_TOKENS,
    ) -> None:
        self._find_key = find_key
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._remembered_tokens = remembered_tokens
        # By SHA-256: small, nothing that a memory dump gives away, and no secret compared character by character.
        self._remembered: OrderedDict[bytes, tuple[str, PublicKey, VerifiedToken]] = OrderedDict()

    async def verify(self, token: str) -> VerifiedToken:
        """Return whom `token` speaks for. Raises as the port says, expiry last: only for what is otherwise right."""
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        if digest in self._remembered:
            kid, key, verified = self._remembered[digest]
            if await self._find_key(kid) == key:
                check_expiry(verified.expires_at, self._clock.now())
                if digest in self._remembered:  # others may have pushed it out while the key was looked up
                    self._remembered.move_to_end(digest)
                return verified
            self._remembered.pop(digest, None)
        return await self._prove(token, digest)

    async def _prove(self, token: str, digest: bytes) -> VerifiedToken:
        unverified = read_token(token)
        now = self._clock.now()
        # Before the key is looked up, so that only tokens meant for us can make us ask the issuer.
        subject, expires_at = read_claims(unverified.claims, issuer=self._issuer, audience=self._audience, now=now)
        key = await self._find_key(unverified.kid)
        if key is None:
            raise TokenInvalid("the issuer has no such key")
        if not key.verifies(unverified.signing_input, unverified.signature):
            raise TokenInvalid("the signature does not match")
        check_expiry(expires_at, now)
        verified = VerifiedToken(subject, expires_at)
        self._remember(digest, unverified.kid, key, verified)
        return verified

    def _remember(self, digest: bytes, kid: str, key: PublicKey, verified: VerifiedToken) -> None:
        self._remembered[digest] = kid, key, verified
        while len(self._remembered) > self._remembered_tokens:
            self._remembered.popitem(last=False)
