"""The attack table: known attacks on JWT verifiers, and the error with which both our verifiers refuse each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cdv_adapters.tokens.jwt import JwtVerifier
from cdv_core.domain.tokens import TOKEN_MAX_CHARS, base64url
from cdv_core.errors import CdvError, TokenInvalid, TokenMalformed
from tests.adapters.minted_tokens import (
    ATTACKER,
    AUDIENCE,
    CLAIMS,
    ED448,
    HEADER,
    ISSUER,
    KID,
    NOW,
    OTHER_KEYS,
    OWN,
    PRIVATE,
    PUBLIC,
    RSA,
    VERIFIERS,
    WEAK,
    forge_under,
    hmac_with,
    okp_jwk,
    raw_ecdsa,
    text,
    token,
    with_non_canonical_r,
    with_s_plus_order,
    without,
)


@dataclass(frozen=True)
class Attack:
    token: str
    refusal: type[CdvError] = TokenInvalid


def algorithms(table: dict[str, Attack]) -> None:
    for alg in ("none", "None", "NONE", "nOnE", "none ", "", "\0none"):
        table[f"alg {alg!r} unsigned"] = Attack(token({**HEADER, "alg": alg}, sign=lambda _: b""))
        table[f"alg {alg!r} signed"] = Attack(token({**HEADER, "alg": alg}))
    others: list[Any] = ["eddsa", "EDDSA", "ed25519", "Ed448", "Ed25519ph", "ES256", "RS256", "PS256", "EdDSA "]
    for other in [*others, None, 0, True, ["EdDSA"], {}]:
        table[f"alg {other!r}"] = Attack(token({**HEADER, "alg": other}))
    table["alg absent"] = Attack(token(without(HEADER, "alg")))
    spki = PRIVATE.public_key()
    encodings = {
        "raw": PUBLIC,
        "base64url": base64url(PUBLIC).encode(),
        "hex": PUBLIC.hex().encode(),
        "PEM": spki.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "PEM without newline": spki.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
        "DER": spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "OpenSSH": spki.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        "JWK": text(OWN.jwks()["keys"][0]),
        "JWK set": text(OWN.jwks()),
        "empty": b"",
    }
    for name, key in encodings.items():
        for alg, digest in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")):
            table[f"{alg} with the public key as {name}"] = Attack(
                token({**HEADER, "alg": alg}, sign=hmac_with(key, digest))
            )
        table[f"EdDSA announced, HMAC with the public key as {name}"] = Attack(token(sign=hmac_with(key, "sha512")))


def embedded_keys(table: dict[str, Attack]) -> None:
    theirs = okp_jwk(ATTACKER.public_key().public_bytes_raw(), KID)
    for name, value in {
        "jwk": theirs,
        "jku": "https://attacker.example/jwks.json",
        "x5u": "https://attacker.example/cert.pem",
        "x5c": ["MIIB"],
    }.items():
        table[f"{name}, signed by its key"] = Attack(token({**HEADER, name: value}, sign=ATTACKER.sign))
        table[f"{name}, signed by ours"] = Attack(token({**HEADER, name: value}))
        table[f"{name}, null"] = Attack(token({**HEADER, name: None}))
    table["signed by another key under our kid"] = Attack(token(sign=ATTACKER.sign))


def key_ids(table: dict[str, Attack]) -> None:
    elsewhere = ["../../../../dev/null", "/dev/null", "file:///dev/null", "https://attacker.example/jwks.json"]
    injected = ["' OR '1'='1", "| sleep 1", "*", "__proto__", "k" * 4096, "\ud800"]
    nearly = [KID + "\0", " " + KID, KID + "\n", KID.upper(), KID[:-1], "no-kid", "twice", "7"]
    for kid in [*elsewhere, *injected, *nearly]:
        table[f"kid {kid[:40]!r}"] = Attack(token({**HEADER, "kid": kid}))
        table[f"kid {kid[:40]!r}, signed by another key"] = Attack(token({**HEADER, "kid": kid}, sign=ATTACKER.sign))
    for no_kid in (None, "", 0, 7, True, [KID], {"kid": KID}):
        table[f"kid {no_kid!r}"] = Attack(token({**HEADER, "kid": no_kid}), TokenMalformed)
    table["kid absent"] = Attack(token(without(HEADER, "kid")), TokenMalformed)
    table["kid absent, alg none"] = Attack(token({"alg": "none"}, sign=lambda _: b""), TokenMalformed)
    table["kid in the claims only"] = Attack(token(without(HEADER, "kid"), {**CLAIMS, "kid": KID}), TokenMalformed)


def other_keys(table: dict[str, Attack]) -> None:
    for jwk in OTHER_KEYS:
        if isinstance(jwk, dict) and isinstance(jwk.get("kid"), str) and jwk["kid"] not in WEAK:
            table[f"key {jwk['kid']}"] = Attack(token({**HEADER, "kid": jwk["kid"]}))
    table["Ed448 as EdDSA"] = Attack(token({**HEADER, "kid": "ed448"}, sign=ED448.sign))
    table["ES256 as ES256"] = Attack(token({**HEADER, "kid": "p256", "alg": "ES256"}, sign=raw_ecdsa))
    table["ES256 as EdDSA"] = Attack(token({**HEADER, "kid": "p256"}, sign=raw_ecdsa))
    table["RS256 as RS256"] = Attack(
        token({**HEADER, "kid": "rsa", "alg": "RS256"}, sign=lambda m: RSA.sign(m, PKCS1v15(), SHA256()))
    )
    for kid, key in WEAK.items():
        table[f"weak key {kid}"] = Attack(token({**HEADER, "kid": kid}, sign=forge_under(key)))


def extensions(table: dict[str, Attack]) -> None:
    headers: dict[str, dict[str, Any]] = {
        "crit empty": {"crit": []},
        "crit of a known claim": {"crit": ["exp"], "exp": NOW + 600},
        "crit of the unknown": {"crit": ["http://example/ext"], "http://example/ext": True},
        "crit b64": {"crit": ["b64"], "b64": False},
        "crit null": {"crit": None},
        "crit a string": {"crit": "exp"},
        "b64 alone": {"b64": False},
        "b64 true": {"b64": True},
    }
    for name, extension in headers.items():
        table[name] = Attack(token({**HEADER, **extension}))


def ambiguous_json(table: dict[str, Attack]) -> None:
    header, claims = text(HEADER)[1:-1], text(CLAIMS)[1:-1]
    for name, repeated in {
        "alg": b'{"alg":"none",%s}' % header,
        "alg, the bad one last": b'{%s,"alg":"none"}' % header,
        "alg, twice the same": b'{%s,"alg":"EdDSA"}' % header,
        "alg, one escaped": b'{%s,"\\u0061lg":"none"}' % header,
        "kid": b'{%s,"kid":"other"}' % header,
        "within a member": b'{%s,"x":{"a":1,"a":2}}' % header,
    }.items():
        table[f"header repeats {name}"] = Attack(token(repeated))
    for name, repeated in {
        "sub": b'{%s,"sub":"did:web:victim.example"}' % claims,
        "sub, the bad one first": b'{"sub":"did:web:victim.example",%s}' % claims,
        "sub, one escaped": b'{%s,"s\\u0075b":"did:web:victim.example"}' % claims,
        "exp": b'{%s,"exp":1}' % claims,
        "aud": b'{%s,"aud":"cdv"}' % claims,
        "within a member": b'{%s,"x":[{"a":1,"a":2}]}' % claims,
    }.items():
        table[f"claims repeat {name}"] = Attack(token(claims=repeated))
    for name, payload in {
        "nothing": b"",
        "null": b"null",
        "a list": b"[%s]" % text(CLAIMS),
        "a string": text(text(CLAIMS).decode()),
        "a number": b"1",
        "cut short": text(CLAIMS)[:-1],
        "followed by more": text(CLAIMS) + b"{}",
        "behind a byte order mark": b"\xef\xbb\xbf" + text(CLAIMS),
        "in UTF-16": text(CLAIMS).decode().encode("utf-16"),
        "in UTF-16 without a mark": text(CLAIMS).decode().encode("utf-16-le"),
        "no UTF-8": text({**CLAIMS, "x": "?"}).replace(b"?", b"\xff"),
        "with a comment": text(CLAIMS)[:-1] + b"/**/}",
        "with a trailing comma": text(CLAIMS)[:-1] + b",}",
        "in single quotes": text(CLAIMS).replace(b'"', b"'"),
        "with a raw control character": text(CLAIMS).replace(b"cdv", b"cdv\n"),
        "nested without end": b'{%s,"x":%s' % (claims, b"[" * 4000),
        "nested deeply": b'{%s,"x":%s%s}' % (claims, b"[" * 2000, b"]" * 2000),
    }.items():
        table[f"claims: {name}"] = Attack(token(claims=payload))


def rearranged_parts(table: dict[str, Attack]) -> None:
    good, other = token().split("."), token(claims={**CLAIMS, "sub": "did:web:victim.example"}).split(".")
    table["header and claims swapped"] = Attack(f"{good[1]}.{good[0]}.{good[2]}", TokenMalformed)
    table["parts reversed"] = Attack(".".join(reversed(good)), TokenMalformed)
    table["claims of another token"] = Attack(f"{good[0]}.{other[1]}.{good[2]}")
    table["signature of another token"] = Attack(f"{good[0]}.{good[1]}.{other[2]}")
    table["claims twice"] = Attack(f"{good[0]}.{good[1]}.{good[1]}")
    table["no signature"] = Attack(f"{good[0]}.{good[1]}.")
    table["no claims"] = Attack(f"{good[0]}..{good[2]}")
    table["no header"] = Attack(f".{good[1]}.{good[2]}", TokenMalformed)
    table["two parts"] = Attack(f"{good[0]}.{good[1]}", TokenMalformed)
    table["four parts"] = Attack(".".join([*good, good[2]]), TokenMalformed)
    table["five parts, as encrypted ones have"] = Attack(".".join([*good, *good[:2]]), TokenMalformed)
    table["JSON serialisation"] = Attack(
        json.dumps(dict(zip(("protected", "payload", "signature"), good, strict=True))), TokenMalformed
    )
    table["with the Bearer prefix"] = Attack("Bearer " + token(), TokenMalformed)


def signatures(table: dict[str, Attack]) -> None:
    good = token().split(".")
    table["S + L"] = Attack(token(sign=with_s_plus_order))
    table["R of another spelling"] = Attack(token(sign=with_non_canonical_r))
    for name, change in {
        "zeros": lambda s: bytes(64),
        "ones": lambda s: b"\xff" * 64,
        "cut": lambda s: s[:63],
        "halved": lambda s: s[:32],
        "longer": lambda s: s + b"\0",
        "doubled": lambda s: s * 2,
        "halves swapped": lambda s: s[32:] + s[:32],
        "one bit of R": lambda s: bytes([s[0] ^ 1]) + s[1:],
        "one bit of S": lambda s: s[:63] + bytes([s[63] ^ 1]),
        "reversed": lambda s: s[::-1],
    }.items():
        table[f"signature: {name}"] = Attack(token(sign=lambda message, change=change: change(PRIVATE.sign(message))))  # type: ignore[misc]
    last = good[2][-1]
    assert last in "AQgw"  # four bits of the last of 86 characters are padding
    for part, name in enumerate(("header", "claims", "signature")):
        for bad in ("=", "+", "/", " ", "\n", "é", "\0"):
            parts = list(good)
            parts[part] += bad
            table[f"{name}: {bad!r}"] = Attack(".".join(parts), TokenMalformed)
    table["signature: stray bits"] = Attack(f"{good[0]}.{good[1]}.{good[2][:-1]}{chr(ord(last) + 1)}")


def sizes(table: dict[str, Attack]) -> None:
    table["too long"] = Attack(token(claims={**CLAIMS, "x": "x" * TOKEN_MAX_CHARS}))
    table["far too long"] = Attack(token(claims={**CLAIMS, "x": "x" * 1_000_000}))
    table["far too long and nothing else"] = Attack("x" * 1_000_000, TokenMalformed)


def wrong_claims(table: dict[str, Attack]) -> None:
    for name in ("iss", "aud", "sub", "exp"):
        table[f"{name} absent"] = Attack(token(claims=without(CLAIMS, name)))
    wrong: dict[str, list[Any]] = {
        "iss": [ISSUER + "/", ISSUER.upper(), "http://identity.example", ISSUER + "\0", [ISSUER], {ISSUER: 1}],
        "aud": [[], "CDV", "cdv ", "cd", "cdv,other", ["other"], [["cdv"]], ["cdv", 1], ["cdv", None], {"cdv": True}],
        "sub": ["someone", "did:", "did:plc:", "DID:plc:x", "did:plc:a b", "did:plc:x\n", "did:plc:" + "x" * 2048],
    }
    for values in wrong.values():
        values += [None, "", 1, True, {}]
    for name, values in wrong.items():
        for value in values:
            table[f"{name} {str(value)[:40]!r} ({type(value).__name__})"] = Attack(
                token(claims={**CLAIMS, name: value})
            )


ATTACKS: dict[str, Attack] = {}
for fill in (
    algorithms,
    embedded_keys,
    key_ids,
    other_keys,
    extensions,
    ambiguous_json,
    rearranged_parts,
    signatures,
    sizes,
    wrong_claims,
):
    fill(ATTACKS)


@pytest.mark.parametrize("new_verifier", VERIFIERS.values(), ids=VERIFIERS)
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_the_attack_is_refused(new_verifier: Callable[[], JwtVerifier], attack: Attack):
    verifier = new_verifier()
    for _ in range(2):
        with pytest.raises(CdvError) as caught:
            await verifier.verify(attack.token)
        assert type(caught.value) is attack.refusal


@pytest.mark.parametrize("new_verifier", VERIFIERS.values(), ids=VERIFIERS)
@pytest.mark.parametrize(
    ("header", "claims"),
    [
        pytest.param(HEADER, CLAIMS, id="as issued"),
        pytest.param({**HEADER, "alg": "Ed25519"}, CLAIMS, id="the algorithm by its newer name"),
        pytest.param({"alg": "EdDSA", "kid": KID}, CLAIMS, id="no typ"),
        pytest.param(
            {**HEADER, "typ": "at+jwt", "cty": "x", "x": {"y": [1]}}, CLAIMS, id="headers that mean nothing here"
        ),
        pytest.param(HEADER, without(CLAIMS, "iat"), id="no iat"),
        pytest.param(HEADER, {**CLAIMS, "aud": ["other", AUDIENCE]}, id="one audience of several"),
        pytest.param(HEADER, {**CLAIMS, "sub": f"did:web:{'x' * 2040}"}, id="the longest subject"),
        pytest.param(HEADER, {**CLAIMS, "scope": "é\ud800", "x": None}, id="claims that mean nothing here"),
        pytest.param(b" \n" + text(HEADER) + b"\t", b"\r\n" + text(CLAIMS) + b" ", id="white space around the JSON"),
    ],
)
async def test_valid_tokens_are_accepted(new_verifier: Callable[[], JwtVerifier], header: Any, claims: Any):
    """Without this a verifier that refuses every token would pass."""
    verified = await new_verifier().verify(token(header, claims))

    assert verified.expires_at == datetime.fromtimestamp(NOW + 600, UTC)
