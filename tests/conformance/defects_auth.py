"""Defects of tokens, authorisation and key rotation."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect

TOKENS = "cdv_core/domain/tokens.py"
JWT = "cdv_adapters/tokens/jwt.py"
KEYS = "cdv_adapters/tokens/key_set.py"
USE_CASE = "cdv_core/use_cases/records.py"
AUTHENTICATION = "cdv_http/auth.py"

_FETCHES = "            if now >= max(self._unknown_kid_at + _COOLDOWN_SECONDS, self._retry_at):\n"
_UNPINNED = (TOKENS, '    if header.get("alg") not in _ALGORITHMS:', "    if False:")
_BELIEVED = """    try:
        return await tokens.verify(token)
    except {1}:
        if not {0}:
            raise
        from cdv_core.domain.tokens import read_token

        claims = read_token(token).claims
        return VerifiedToken(Did.parse(claims["sub"]), __import__("datetime").datetime.max)
"""

AUTH: list[Defect] = [
    defect(
        "any-scheme",
        "A token is accepted under any Authorization scheme.",
        "AUTH-001",
        (AUTHENTICATION, 'scheme.lower() != "bearer" or ', ""),
    ),
    defect(
        "malformed-is-invalid",
        "A token without kid is rejected as invalid, not as malformed.",
        "AUTH-002",
        (TOKENS, '        raise TokenMalformed("no kid")', '        raise TokenInvalid("no kid")'),
    ),
    defect(
        "only-the-header-is-base64url",
        "A token whose claims or signature are not base64url is rejected as invalid, not as malformed.",
        "AUTH-002",
        (
            TOKENS,
            "    if not _COMPACT.fullmatch(text) or any(len(part) % 4 == 1 for part in parts):",
            '    if len(parts) != 3 or not _COMPACT.fullmatch(f"{parts[0]}.."):',
        ),
        (
            TOKENS,
            '    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))',
            """    part = re.sub("[^A-Za-z0-9_-]", "", part)
    part = part[: len(part) - (len(part) % 4 == 1)]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))""",
        ),
    ),
    defect(
        "signatures-unchecked",
        "Signatures are not verified.",
        "AUTH-003 AUTH-007",
        (JWT, "if not key.verifies(unverified.signing_input, unverified.signature):", "if False:"),
    ),
    defect(
        "alg-none",
        "A token with alg none and an empty signature is accepted.",
        "AUTH-004",
        (TOKENS, '_ALGORITHMS: Final = ("EdDSA", "Ed25519")', '_ALGORITHMS: Final = ("EdDSA", "Ed25519", "none")'),
        (JWT, "if not key.verifies(", "if unverified.signature and not key.verifies("),
    ),
    defect(
        "alg-of-the-token",
        "The alg of a token is not checked.",
        "AUTH-005",
        _UNPINNED,
    ),
    defect(
        "hmac-with-the-public-key",
        "An HMAC keyed with the public key is accepted as a signature.",
        "AUTH-005",
        _UNPINNED,
        (
            "cdv_adapters/tokens/ed25519.py",
            "        return ALGORITHM.verify(signing_input, signature, self._key)",
            (
                '        mac = __import__("hmac").digest(self.raw, signing_input, "sha256")\n'
                "        return mac == signature or ALGORITHM.verify(signing_input, signature, self._key)"
            ),
        ),
    ),
    defect(
        "key-brought-along",
        "A token is verified with the jwk in its own header.",
        "AUTH-006",
        (TOKENS, '("crit", "b64", "jwk", "jku", "x5u", "x5c")', '("crit", "b64", "jku", "x5u", "x5c")'),
        (
            TOKENS,
            "    return UnverifiedToken(kid, claims, ",
            '    if "jwk" in header:\n        claims["jwk"] = header["jwk"]\n    return UnverifiedToken(kid, claims, ',
        ),
        (
            JWT,
            "        key = await self._find_key(unverified.kid)\n",
            (
                "        key = await self._find_key(unverified.kid)\n"
                '        if "jwk" in unverified.claims:\n'
                '            key = PublicKey.from_jwk(unverified.claims["jwk"])\n'
            ),
        ),
    ),
    defect(
        "unknown-kid-is-malformed",
        "A token with an unknown kid is rejected as malformed.",
        "AUTH-008",
        (
            JWT,
            'raise TokenInvalid("the issuer has no such key")',
            'raise __import__("cdv_core.errors").errors.TokenMalformed("no key")',
        ),
    ),
    defect(
        "tokens-last-for-ever",
        "An expired token is accepted.",
        "AUTH-009",
        (TOKENS, "    if now - expires_at >= CLOCK_SKEW:", "    if False:"),
    ),
    defect(
        "no-clock-skew",
        "No clock skew is tolerated.",
        "AUTH-010",
        ("cdv_core/domain/limits.py", "CLOCK_SKEW: Final = timedelta(seconds=60)", "CLOCK_SKEW: Final = timedelta(0)"),
    ),
    defect(
        "tokens-of-tomorrow",
        "nbf and iat are not checked.",
        "AUTH-011",
        (TOKENS, 'for name in ("nbf", "iat"):', "for name in ():"),
    ),
    defect(
        "issuer-by-prefix",
        "An issuer that only begins with the configured one is accepted.",
        "AUTH-012",
        (TOKENS, 'if claims.get("iss") != issuer:', 'if not str(claims.get("iss")).startswith(issuer):'),
    ),
    defect(
        "audience-by-substring",
        "An audience that only contains the configured one as a substring is accepted.",
        "AUTH-013",
        (TOKENS, "if audience not in audiences:", "if audience not in str(audiences):"),
    ),
    defect(
        "one-audience-only",
        "A list of audiences is rejected.",
        "AUTH-014",
        (TOKENS, "    if not isinstance(audiences, list) or", '    if isinstance(claims.get("aud"), list) or'),
    ),
    defect(
        "no-exp-needed",
        "A token without exp is accepted.",
        "AUTH-015",
        (
            TOKENS,
            '    expires = _number(claims, "exp")\n',
            '    expires = _number(claims, "exp") if "exp" in claims else now.timestamp() + 3600\n',
        ),
    ),
    defect(
        "any-subject",
        "A sub that is not a DID is accepted.",
        "AUTH-016",
        (TOKENS, '        did = Did.parse(subject, "sub")', "        did = Did(subject)"),
    ),
    defect(
        "one-name-of-the-algorithm",
        "The algorithm name Ed25519 is rejected.",
        "AUTH-017",
        (TOKENS, '_ALGORITHMS: Final = ("EdDSA", "Ed25519")', '_ALGORITHMS: Final = ("EdDSA",)'),
    ),
    defect(
        "anyone-writes-for-anyone",
        "The did of a create is not compared with the subject.",
        "AUTH-018",
        (USE_CASE, "    if subject is not None and request.did != subject:", "    if False:"),
    ),
    defect(
        "anyone-uploads-for-anyone",
        "The did of an upload is not compared with the subject.",
        "AUTH-018",
        ("cdv_core/use_cases/media.py", "        if subject is not None and owner != subject:", "        if False:"),
    ),
    defect(
        "author-not-compared",
        "authorDid is not compared with the subject.",
        "AUTH-019",
        (
            USE_CASE,
            "    if author != request.did and (subject is not None or isinstance(author, str)):",
            "    if False:",
        ),
        trap="authorDid never compared with the subject",
    ),
    defect(
        "get-needs-a-token",
        "Get requires a token, although listings do not.",
        "AUTH-020",
        (
            "cdv_http/routes/records.py",
            "    viewer = await authenticate_reader(request, service)\n    uri = ",
            "    viewer = await authenticate(request, service.tokens)\n    uri = ",
        ),
        ("cdv_http/routes/records.py", "import authenticate_reader,", "import authenticate, authenticate_reader,"),
    ),
    defect(
        "private-records-shown",
        "Get returns an owner-only record to any reader.",
        "AUTH-021",
        (USE_CASE, "        if parsed.collection in self._schemas.catalogue.owner_only:", "        if False:"),
    ),
    defect(
        "private-records-listed",
        "A listing of all collections includes owner-only records for every reader.",
        "AUTH-022",
        (USE_CASE, "        elif not _is_owner(listing.did, viewer):", "        elif False:"),
    ),
    defect(
        "private-records-leave-gaps",
        "Owner-only records are removed from a page after the limit is applied, so that pages are too short.",
        "AUTH-022",
        (
            USE_CASE,
            "            listing = replace(listing, hidden=catalogue.owner_only)\n",
            "            hidden = True\n",
        ),
        (
            USE_CASE,
            "        return JsonPage(found.records, cursor",
            (
                '        shown = [it for it in found.records if b"moderation.flag" not in it or viewer == did]\n'
                "        return JsonPage(shown, cursor"
            ),
        ),
    ),
    defect(
        "no-challenge",
        "401 responses have no WWW-Authenticate header.",
        "AUTH-023",
        ("cdv_http/error_responses.py", "    if status == 401:", "    if False:"),
        only="AUTH-001",
    ),
    defect(
        "keys-never-refetched",
        "An unknown kid does not cause a fetch of the keys.",
        "AUTH-024",
        (KEYS, _FETCHES, "            if False:\n"),
        trap="An unknown kid does not refetch",
        waits=True,
    ),
    defect(
        "keys-refetched-each-time",
        "Every unknown kid causes a fetch of the keys.",
        "AUTH-025",
        (KEYS, _FETCHES, "            if True:\n"),
        trap="An unknown kid refetches every time",
    ),
    defect(
        "wrapped-keys-unread",
        "A key set that is wrapped in a data member is rejected.",
        "AUTH-026",
        (KEYS, '    if "keys" not in document and isinstance(document.get("data"), dict):', "    if False:"),
        waits=True,
    ),
    defect(
        "outage-is-401",
        "When the keys cannot be fetched, the cached ones are dropped, and valid tokens get 401.",
        "AUTH-027",
        (
            KEYS,
            "            self._failure = error\n",
            "            self._failure = error\n            self._keys = {}\n",
        ),
        (KEYS, "        if key is None and not self._keys and self._failure is not None:\n", "        if False:\n"),
        trap="An issuer outage answered as 401",
    ),
    defect(
        "forged-writes",
        "POST requests are accepted without verification of the token's signature and claims.",
        "AUTH-007",
        (
            AUTHENTICATION,
            "    return await tokens.verify(token)\n",
            _BELIEVED.format('request.method == "POST"', "CdvError"),
        ),
    ),
    defect(
        "forged-reads",
        "Requests under /v1/repo/ are accepted without verification of the token's signature and claims.",
        "AUTH-007",
        (
            AUTHENTICATION,
            "    return await tokens.verify(token)\n",
            _BELIEVED.format('"/repo/" in request.url.path', "CdvError"),
        ),
    ),
    defect(
        "expired-writes",
        "POST requests with expired tokens are accepted.",
        "AUTH-009",
        (AUTHENTICATION, "import CdvError,", "import CdvError, TokenExpired,"),
        (
            AUTHENTICATION,
            "    return await tokens.verify(token)\n",
            _BELIEVED.format('request.method == "POST"', "TokenExpired"),
        ),
    ),
    defect(
        "content-for-everyone",
        "The content of a finalised asset is returned without a token.",
        "AUTH-001",
        (
            "cdv_http/routes/media.py",
            """    await authenticate(request, service.tokens)
    no_parameters(request)
    # A client follows a redirected HEAD with a HEAD, and a URL may be signed for one method only.
    url = await service.vault.media.content_url(request.path_params["assetId"], head=state_of(request.scope).head)
""",
            """    try:
        url = await service.vault.media.content_url(request.path_params["assetId"])
    finally:
        if "url" not in locals():
            await authenticate(request, service.tokens)
""",
        ),
    ),
    defect(
        "valid-tokens-refused",
        "Valid tokens are rejected as invalid.",
        "REC-001 LIST-013 MEDIA-001 AUTH-014 AUTH-017",
        (JWT, "        return verified\n\n", '        raise TokenInvalid("no")\n\n'),
        trap="A test that accepts 401 for a valid token",
    ),
]
