"""What every TokenVerifier must do, whoever issues the tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cdv_core.domain.limits import CLOCK_SKEW
from cdv_core.domain.tokens import base64url
from cdv_core.errors import TokenExpired, TokenInvalid, TokenMalformed
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

_BASE64URL = st.text(alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_SHAPED = st.builds("{}.{}.{}".format, _BASE64URL, _BASE64URL, _BASE64URL)


@dataclass(frozen=True, slots=True)
class Rig:
    """A verifier, and the world it lives in: who issues its tokens, who else does, and a clock to move."""

    verifier: TokenVerifier
    issue: Callable[[str, int], str]
    issue_elsewhere: Callable[[str, int], str]
    clock: Any  # the tests' clock: now() and advance(seconds)


class TokenVerifierContract:
    """Subclass it with a fixture `rig` that gives a fresh Rig, its clock at a whole second."""

    async def test_a_token_speaks_for_its_subject_until_it_expires(self, rig: Rig):
        token = rig.issue(SUBJECT, 600)

        verified = await rig.verifier.verify(token)

        assert verified == VerifiedToken(verified.subject, rig.clock.now() + timedelta(seconds=600))
        assert verified.subject == SUBJECT
        assert verified.expires_at.utcoffset() == timedelta(0)

    async def test_the_same_token_gives_the_same_answer(self, rig: Rig):
        token = rig.issue(SUBJECT, 600)

        assert await rig.verifier.verify(token) == await rig.verifier.verify(token)

    async def test_tokens_of_several_subjects_are_told_apart(self, rig: Rig):
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

    async def test_a_token_with_another_signature_is_refused(self, rig: Rig):
        mine, other = rig.issue(SUBJECT, 600), rig.issue("did:web:other.example", 600)
        assert mine.rpartition(".")[2] != other.rpartition(".")[2]

        with pytest.raises(TokenInvalid):
            await rig.verifier.verify(f"{mine.rpartition('.')[0]}.{other.rpartition('.')[2]}")

    @pytest.mark.parametrize("token", MALFORMED.values(), ids=MALFORMED)
    async def test_what_is_no_token_at_all_is_called_malformed(self, rig: Rig, token: str):
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
    async def test_no_text_does_worse_than_be_refused(self, rig: Rig, text: str):
        with pytest.raises((TokenMalformed, TokenInvalid)):
            await rig.verifier.verify(text)
