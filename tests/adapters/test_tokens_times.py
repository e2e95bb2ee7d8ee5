"""The times in a token: valid numbers, and when a token counts as expired."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

from cdv_adapters.tokens.jwt import JwtVerifier
from cdv_core.errors import CdvError, TokenExpired, TokenInvalid
from tests.adapters.minted_tokens import ATTACKER, CLAIMS, HEADER, NOW, PRIVATE, VERIFIERS, Signer, text, token, without

# Values of exp, nbf and iat: the JSON text in the token, and the expected error, or None if it is valid.
NUMBERS: list[tuple[str, str, type[CdvError] | None]] = [
    ("exp", f"{NOW}", None),  # within the skew
    ("exp", f"{NOW - 59}", None),
    ("exp", f"{NOW - 59.5}", None),
    ("exp", f"{NOW - 60}", TokenExpired),
    ("exp", f"{NOW - 60}.0", TokenExpired),
    ("exp", "0", TokenExpired),
    ("exp", "-0.0", TokenExpired),
    ("exp", "-1", TokenExpired),
    ("exp", "-1e300", TokenExpired),
    ("exp", "-" + "9" * 4000, TokenExpired),
    ("exp", "1e-400", TokenExpired),
    ("exp", f"{NOW + 600}.75", None),
    ("exp", f"{(NOW + 600) / 1e9}e9", None),
    ("exp", "253402300799", None),
    ("exp", "253402300800", TokenInvalid),
    ("exp", f"{NOW + 600}000", TokenInvalid),  # milliseconds
    ("exp", "1e300", TokenInvalid),
    ("exp", "1e999", TokenInvalid),
    ("exp", "-1e999", TokenInvalid),
    ("exp", "9" * 19, TokenInvalid),
    ("exp", "9" * 4000, TokenInvalid),
    ("exp", "9" * 5000, TokenInvalid),
    ("nbf", f"{NOW}", None),
    ("nbf", f"{NOW + 60}", None),
    ("nbf", f"{NOW + 60}.001", TokenInvalid),
    ("nbf", f"{NOW + 61}", TokenInvalid),
    ("nbf", "0", None),
    ("nbf", "-1", None),
    ("nbf", "-1e300", None),
    ("nbf", "1e300", TokenInvalid),
    ("nbf", "9" * 4000, TokenInvalid),
    ("iat", f"{NOW + 60}", None),
    ("iat", f"{NOW + 60}.001", TokenInvalid),
    ("iat", f"{NOW}000", TokenInvalid),
    ("iat", "0", None),
    ("iat", "-1", None),
    *((name, json_text, TokenInvalid) for name in ("exp", "nbf", "iat") for json_text in (
        "null", "true", "false", f'"{NOW + 600}"', '""', "[]", f"[{NOW + 600}]", "{}", "NaN", "Infinity", "-Infinity",
        "0x7fffffff", f"+{NOW}", f"0{NOW}", "1_000", "1.", ".5", "1e", "1e999", "-1e999",
    )),
]  # fmt: skip


@pytest.mark.parametrize("new_verifier", VERIFIERS.values(), ids=VERIFIERS)
@pytest.mark.parametrize(
    ("name", "json_text", "refusal"), NUMBERS, ids=[f"{n} {j[:24]}{len(j)}" for n, j, _ in NUMBERS]
)
async def test_exp_nbf_and_iat_must_be_numbers_within_the_clock_skew(
    new_verifier: Callable[[], JwtVerifier], name: str, json_text: str, refusal: type[CdvError] | None
):
    claims = text(without(CLAIMS, name))[:-1] + f',"{name}":{json_text}}}'.encode()
    with pytest.raises(refusal) if refusal else nullcontext():
        await new_verifier().verify(token(claims=claims))


@pytest.mark.parametrize("new_verifier", VERIFIERS.values(), ids=VERIFIERS)
@pytest.mark.parametrize(
    ("header", "claims", "sign"),
    [
        pytest.param(HEADER, {**CLAIMS, "iss": "https://other.example"}, PRIVATE.sign, id="issuer"),
        pytest.param(HEADER, {**CLAIMS, "aud": "other"}, PRIVATE.sign, id="audience"),
        pytest.param(HEADER, {**CLAIMS, "sub": "someone"}, PRIVATE.sign, id="subject"),
        pytest.param(HEADER, {**CLAIMS, "nbf": NOW + 999}, PRIVATE.sign, id="nbf"),
        pytest.param(HEADER, CLAIMS, ATTACKER.sign, id="signature"),
        pytest.param({**HEADER, "kid": "unknown"}, CLAIMS, PRIVATE.sign, id="key"),
    ],
)
async def test_token_expired_is_raised_only_for_an_otherwise_valid_token(
    new_verifier: Callable[[], JwtVerifier], header: Any, claims: Any, sign: Signer
):
    with pytest.raises(TokenInvalid):
        await new_verifier().verify(token(header, {**claims, "exp": NOW - 3600}, sign))
