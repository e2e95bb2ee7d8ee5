"""The contract of token verifiers, for any issuer."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cdv_core.domain.limits import CLOCK_SKEW
from cdv_core.domain.tokens import base64url
from cdv_core.errors import TokenExpired, TokenInvalid, TokenMalformed, Unavailable
from cdv_core.ports.tokens import TokenVerifier, VerifiedToken

SUBJECT = "did:plc:ewvi7nxzyoun6zhxrhs64oiz"


def _headed(header: bytes) -> str:
    return f"{base64url(header)}.e30.e30"


MALFORMED = {
    "nothing": "",
    "one part": "e30",
    "two parts": "e30.e30",
    "four parts": "e30.e30.e30.e30",
    "empty parts": "..",
    "a space": " e30.e30.e30",
    "a newline at the end": "e30.e30.e30\n",
    "padding": "e30=.e30=.e30=",
    "base64 of the other alphabet": "e3/+.e30.e30",
    "a length no base64 has": "e30aa.e30.e30",
    "beyond ASCII": "é30.e30.e30",
    "a lone surrogate": "\ud800.e30.e30",
    "a header that is no JSON": "bm9wZQ.e30.e30",
    "a header that is no UTF-8": "_w.e30.e30",
    "a header that is a list": _headed(b"[]"),
    "a header that is a string": _headed(b'"kid"'),
    "a header with a constant that JSON lacks": _headed(b'{"kid":NaN}'),
    "a header nested without end": _headed(b"[" * 4000),
    "no kid": _headed(b'{"alg":"EdDSA"}'),
    "an empty kid": _headed(b'{"alg":"EdDSA","kid":""}'),
    "a kid that is a number": _headed(b'{"alg":"EdDSA","kid":1}'),
    "a kid that is null": _headed(b'{"alg":"EdDSA","kid":null}'),
}

# Claims with which a token is refused. ISSUER and AUDIENCE are replaced by those of a valid token.
REFUSED_CLAIMS: list[tuple[str, Any]] = [
    *(("iss", value) for value in (..., None, 1, "", "https://elsewhere.example", "ISSUER/", "xISSUER", ["ISSUER"])),
    *(
        ("aud", value)
        for value in (..., None, 1, "", "elsewhere", "AUDIENCEx", "AUDIENCE ", [], ["elsewhere"], [["AUDIENCE"]])
    ),
    ("aud", {"AUDIENCE": 1}),
    *(
        ("sub", value)
        for value in (..., None, 1, "", "ada", "did:", "did:example", "DID:example:a", "did:example:a b", [SUBJECT])
    ),
    *(("exp", value) for value in (..., None, True, "soon", "99999999999", [1])),
    *(("nbf", value) for value in (None, "x", True)),
    *(("iat", value) for value in (None, "x", True)),
]
# Headers with which a token is refused: it must not choose how it is verified. The issuer's own algorithm is skipped.
REFUSED_HEADERS: list[tuple[str, Any]] = [
    *(
        ("alg", value)
        for value in (..., None, 1, "", "none", "None", "HS256", "HS512", "RS256", "ES256", "Ed448", "eddsa", ["EdDSA"])
    ),
    ("crit", ["exp"]),
    ("kid", "unknown"),
    ("kid", "../../../dev/null"),
]

_BASE64URL = st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_SHAPED = st.builds("{}.{}.{}".format, _BASE64URL, _BASE64URL, _BASE64URL)


Members: TypeAlias = dict[str, Any]
"""Members of a JSON object."""


@dataclass(frozen=True, slots=True)
class Rig:
    """A verifier and its environment: the issuer that it trusts, another issuer, and a clock to advance.

    `mint(claims, header)` signs, with the issuer's key, a valid token for SUBJECT with these members changed; a member
    whose value is `...` is left out. `public_key`: the forms of the public key that an attacker may have, to be tried
    as HMAC secrets. `away(True)` makes the source of the keys unavailable. All three are optional.
    """

    verifier: TokenVerifier
    issue: Callable[[str, int], str]
    issue_elsewhere: Callable[[str, int], str]
    clock: Any  # the tests' clock: now() and advance(seconds)
    mint: Callable[[Members, Members], str] | None = None
    public_key: tuple[bytes, ...] = ()
    away: Callable[[bool], None] | None = None

    def minted(self, claims: Members | None = None, header: Members | None = None) -> str:
        if self.mint is None:
            pytest.skip("tokens of this issuer cannot be signed with changed members")
        return self.mint(claims or {}, header or {})

    def moment(self, seconds: float) -> float:
        """Return the Unix time that is so many seconds from now by the clock."""
        now: datetime = self.clock.now()
        return now.timestamp() + seconds


def parts_of(token: str) -> tuple[Members, Members, bytes]:
    """Return a token's header, claims and signature."""
    header, claims, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    return json.loads(header), json.loads(claims), signature


def _compact(header: Members, claims: Members, signature: bytes) -> str:
    return ".".join(map(base64url, (json.dumps(header).encode(), json.dumps(claims).encode(), signature)))


async def _once_available(verifier: TokenVerifier, token: str) -> VerifiedToken:
    async with asyncio.timeout(20):
        while True:
            try:
                return await verifier.verify(token)
            except Unavailable:
                await asyncio.sleep(0.01)


class TokenVerifierContract:
    """To use it, inherit and provide the fixture `rig`: a fresh Rig, whose clock is at a whole second."""

    async def test_a_valid_token_is_verified_with_its_subject_and_expiry(self, rig: Rig):
        token = rig.issue(SUBJECT, 600)

        verified = await rig.verifier.verify(token)

        assert verified == VerifiedToken(verified.subject, rig.clock.now() + timedelta(seconds=600))
        assert verified.subject == SUBJECT
        assert verified.expires_at.utcoffset() == timedelta(0)

    async def test_verifying_a_token_again_returns_the_same_result(self, rig: Rig):
        token = rig.issue(SUBJECT, 600)

        assert await rig.verifier.verify(token) == await rig.verifier.verify(token)

    async def test_each_token_returns_its_own_subject(self, rig: Rig):
        tokens = {f"did:web:{n}.example": rig.issue(f"did:web:{n}.example", 600) for n in range(5)}

        for subject, token in [*tokens.items(), *tokens.items()]:
            assert (await rig.verifier.verify(token)).subject == subject

    @pytest.mark.parametrize("seen_before", [True, False])
    async def test_an_expired_token_is_refused_once_the_clock_skew_is_over(self, rig: Rig, seen_before: bool):
        token = rig.issue(SUBJECT, 600)
        if seen_before:
            await rig.verifier.verify(token)

        rig.clock.advance(600 + CLOCK_SKEW.total_seconds() - 0.001)
        await rig.verifier.verify(token)
        rig.clock.advance(0.001)
        with pytest.raises(TokenExpired):
            await rig.verifier.verify(token)
        with pytest.raises(TokenExpired):
            await rig.verifier.verify(token)

    async def test_a_token_of_another_issuer_is_refused(self, rig: Rig):
        token = rig.issue_elsewhere(SUBJECT, 600)

        for _ in range(2):
            with pytest.raises(TokenInvalid):
                await rig.verifier.verify(token)

    async def test_an_expired_token_of_another_issuer_is_reported_as_invalid(self, rig: Rig):
        token = rig.issue_elsewhere(SUBJECT, 600)
        rig.clock.advance(3600)

        with pytest.raises(TokenInvalid):
            await rig.verifier.verify(token)

    async def test_valid_variations_of_the_claims_are_accepted(self, rig: Rig):
        _, good, _ = parts_of(rig.minted())
        near = CLOCK_SKEW.total_seconds() - 1
        for claims in (
            {},
            {"aud": ["elsewhere", good["aud"]]},
            {"iat": ..., "nbf": ...},
            {"nbf": rig.moment(near)},
            {"iat": rig.moment(near)},
            {"scope": "x", "extra": {"a": [1]}},
        ):
            assert (await rig.verifier.verify(rig.minted(claims))).subject == SUBJECT

    @pytest.mark.parametrize(("name", "value"), REFUSED_CLAIMS)
    async def test_a_claim_that_is_missing_or_wrong_is_refused(self, rig: Rig, name: str, value: object):
        _, good, _ = parts_of(rig.minted())
        if value is not ...:
            value = json.loads(json.dumps(value).replace("ISSUER", good["iss"]).replace("AUDIENCE", good["aud"]))

        with pytest.raises(TokenInvalid):
            await rig.verifier.verify(rig.minted({name: value}))

    @pytest.mark.parametrize("name", ["nbf", "iat"])
    async def test_a_token_is_refused_before_its_nbf_or_iat(self, rig: Rig, name: str):
        ahead = CLOCK_SKEW.total_seconds() + 1
        token = rig.minted({name: rig.moment(ahead), "exp": rig.moment(ahead + 600)})

        with pytest.raises(TokenInvalid):
            await rig.verifier.verify(token)

        rig.clock.advance(ahead)
        assert (await rig.verifier.verify(token)).subject == SUBJECT

    async def test_a_token_with_a_past_exp_claim_is_reported_as_expired(self, rig: Rig):
        with pytest.raises(TokenExpired):
            await rig.verifier.verify(rig.minted({"exp": rig.moment(-CLOCK_SKEW.total_seconds())}))

    @pytest.mark.parametrize(("name", "value"), REFUSED_HEADERS)
    async def test_a_header_that_selects_another_verification_is_refused(self, rig: Rig, name: str, value: object):
        if (name, value) == ("alg", parts_of(rig.minted())[0]["alg"]):
            pytest.skip("this is the algorithm of the issuer")

        with pytest.raises(TokenInvalid):
            await rig.verifier.verify(rig.minted(header={name: value}))

    @pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", ""])
    async def test_alg_none_is_refused_in_every_spelling(self, rig: Rig, alg: str):
        header, claims, signature = parts_of(rig.issue(SUBJECT, 600))

        with pytest.raises(TokenInvalid):
            await rig.verifier.verify(_compact({**header, "alg": alg}, claims, signature))
        # A token with an empty signature may also be reported as malformed.
        with pytest.raises((TokenInvalid, TokenMalformed)):
            await rig.verifier.verify(_compact({**header, "alg": alg}, claims, b""))

    @pytest.mark.parametrize(("alg", "digest"), [("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")])
    async def test_hmac_signatures_keyed_with_the_public_key_are_refused(self, rig: Rig, alg: str, digest: str):
        header, claims, _ = parts_of(rig.issue(SUBJECT, 600))
        for key in (b"", *rig.public_key):
            for name in (alg, header["alg"]):
                signing_input = _compact({**header, "alg": name}, claims, b"")[:-1]
                signature = base64url(hmac.digest(key, signing_input.encode(), digest))
                with pytest.raises(TokenInvalid):
                    await rig.verifier.verify(f"{signing_input}.{signature}")

    async def test_without_cached_keys_verification_is_unavailable_until_they_can_be_fetched(self, rig: Rig):
        if rig.away is None:
            pytest.skip("the keys of this issuer are not fetched")
        token = rig.issue(SUBJECT, 600)
        rig.away(True)
        with pytest.raises(Unavailable):
            await rig.verifier.verify(token)
        rig.away(False)

        assert (await _once_available(rig.verifier, token)).subject == SUBJECT

    async def test_cached_keys_verify_tokens_while_the_issuer_is_down(self, rig: Rig):
        if rig.away is None:
            pytest.skip("the keys of this issuer are not fetched")
        tokens = [rig.issue(SUBJECT, 600), rig.issue(SUBJECT, 601)]
        await _once_available(rig.verifier, tokens[0])
        rig.away(True)

        for token in tokens:
            assert (await rig.verifier.verify(token)).subject == SUBJECT

    async def test_a_token_with_another_signature_is_refused(self, rig: Rig):
        mine, other = rig.issue(SUBJECT, 600), rig.issue("did:web:other.example", 600)
        assert mine.rpartition(".")[2] != other.rpartition(".")[2]

        with pytest.raises(TokenInvalid):
            await rig.verifier.verify(f"{mine.rpartition('.')[0]}.{other.rpartition('.')[2]}")
        with pytest.raises((TokenInvalid, TokenMalformed)):
            await rig.verifier.verify(f"{mine.rpartition('.')[0]}.")

    @pytest.mark.parametrize("token", MALFORMED.values(), ids=MALFORMED)
    async def test_a_malformed_token_is_reported_as_malformed(self, rig: Rig, token: str):
        with pytest.raises(TokenMalformed):
            await rig.verifier.verify(token)

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(where=st.floats(0, 1, exclude_max=True), put=st.text(max_size=3))
    async def test_a_token_changed_anywhere_is_refused(self, rig: Rig, where: float, put: str):
        token = rig.issue(SUBJECT, 600)
        at = int(where * len(token))
        assume(put != token[at])

        with pytest.raises((TokenMalformed, TokenInvalid)):
            await rig.verifier.verify(token[:at] + put + token[at + 1 :])

    @settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(alphabet=st.characters(codec=None)) | _SHAPED)
    async def test_arbitrary_text_is_refused(self, rig: Rig, text: str):
        with pytest.raises((TokenMalformed, TokenInvalid)):
            await rig.verifier.verify(text)
