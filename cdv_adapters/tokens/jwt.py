"""Verifies JWTs (spec: authentication), independent of where the issuer's keys come from."""

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

# Returns the key with that `kid`, None if the issuer has none. Raises: Unavailable: the keys cannot be fetched.
FindKey = Callable[[str], Awaitable[PublicKey | None]]

# ours: 14 MiB with DIDs of typical length. A token that is not cached costs a signature verification.
CACHED_TOKENS_MAX: Final = 32_768


class JwtVerifier:
    """A TokenVerifier that gets keys from `find_key`. Caches verified tokens, so that the next request costs one hash.

    A cached token is accepted only while its key exists and it has not expired: both are checked at each use. Rejected
    tokens are not cached, so that invalid tokens cannot evict valid ones.
    """

    def __init__(self, find_key: FindKey, *, issuer: str, audience: str, clock: Clock) -> None:
        self._find_key = find_key
        self._issuer = issuer
        self._audience = audience
        self._clock = clock
        self._cached_tokens_max = CACHED_TOKENS_MAX
        # Keyed by SHA-256: small, useless in a memory dump, and no secret is compared character by character.
        self._cached: OrderedDict[bytes, tuple[str, PublicKey, VerifiedToken]] = OrderedDict()

    async def verify(self, token: str) -> VerifiedToken:
        """Return the token's subject and expiry.

        Raises: as the port says. Expiry is checked last, so that TokenExpired means that all else is valid.
        """
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        if digest in self._cached:
            kid, key, verified = self._cached[digest]
            if await self._find_key(kid) == key:
                check_expiry(verified.expires_at, self._clock.now())
                if digest in self._cached:  # it may have been evicted while the key was looked up
                    self._cached.move_to_end(digest)
                return verified
            self._cached.pop(digest, None)
        return await self._verify_signature(token, digest)

    async def _verify_signature(self, token: str, digest: bytes) -> VerifiedToken:
        unverified = read_token(token)
        now = self._clock.now()
        # Before the key is looked up, so that only tokens for this audience can cause a request to the issuer.
        subject, expires_at = read_claims(unverified.claims, issuer=self._issuer, audience=self._audience, now=now)
        key = await self._find_key(unverified.kid)
        if key is None:
            raise TokenInvalid("the issuer has no such key")
        if not key.verifies(unverified.signing_input, unverified.signature):
            raise TokenInvalid("the signature does not match")
        check_expiry(expires_at, now)
        verified = VerifiedToken(subject, expires_at)
        self._cache(digest, unverified.kid, key, verified)
        return verified

    def _cache(self, digest: bytes, kid: str, key: PublicKey, verified: VerifiedToken) -> None:
        self._cached[digest] = kid, key, verified
        while len(self._cached) > self._cached_tokens_max:
            self._cached.popitem(last=False)
