"""Tests of authentication with valid, malformed and forged tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import strategies as st

from conformance.http.profiles import for_all
from conformance.http.requirements import clause, judges
from conformance.http.tokens import Key, KeyTokens, b64, compact, text
from conformance.http.vault import FINALIZE, FLAG, INIT, LIST, RECORD, Creator, Vault, expect_error

_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def present_token(vault: Vault, token: str) -> httpx.Response:
    """Send a token to an endpoint that requires one and changes nothing."""
    return vault.send("GET", f"/v1/media/{_ID}/meta", headers={"Authorization": f"Bearer {token}"})


def protected_requests(creator: Creator) -> list[tuple[str, str, dict[str, Any]]]:
    """Return a valid request to each endpoint that requires a token, for resources that exist."""
    upload = creator.staged()
    asset = f"/v1/media/{creator.finalized()['assetId']}"
    flag = {"subject": "at://did:example:a/com.registryaccord.feed.post/01ARZ3NDEKTSV4RRFFQ69G5FAV", "reason": "spam"}
    private = creator.created(collection=FLAG, record=flag)["uri"]
    return [
        ("POST", RECORD, {"body": creator.body()}),
        ("POST", INIT, {"body": {"did": creator.did, "mimeType": "image/png", "size": 1}}),
        ("POST", FINALIZE, {"body": {"assetId": upload.asset_id, "sha256": upload.sha256}}),
        ("GET", f"{asset}/meta", {}),
        ("GET", f"{asset}/content", {}),
        ("GET", RECORD, {"params": {"uri": private}}),
        ("GET", LIST, {"params": {"did": creator.did, "collection": FLAG}}),
    ]


def assert_accepted(response: httpx.Response) -> None:
    """Assert that the token was accepted: the request then fails only because the asset does not exist."""
    expect_error(response, 404, "CDV_NOT_FOUND")


def parts_of(token: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return a token's header, claims and signature."""
    header, claims, signature = token.split(".")
    decoded = [json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in (header, claims)]
    return decoded[0], decoded[1], signature


@judges("AUTH-001")
@for_all(
    endpoint=st.sampled_from(
        [
            ("POST", RECORD),
            ("POST", INIT),
            ("POST", FINALIZE),
            ("GET", f"/v1/media/{_ID}/meta"),
            ("GET", f"/v1/media/{_ID}/content"),
        ]
    ),
    authorization=st.sampled_from([None, "Basic YTpi", "Digest x", "TOKEN", "Token TOKEN", "", "Bearer"]),
)
def test_without_a_bearer_token_nothing_is_done(
    vault: Vault, ada: Creator, endpoint: tuple[str, str], authorization: str | None
):
    method, path = endpoint
    headers = {}
    if authorization is not None:
        headers["Authorization"] = authorization.replace("TOKEN", vault.tokens.token(ada.did))

    response = vault.send(method, path, headers=headers, body=ada.body() if method == "POST" else None)

    expect_error(response, 401, *({"CDV_AUTHN", "CDV_JWT_MALFORMED"} if authorization == "Bearer" else {"CDV_AUTHN"}))


@judges("AUTH-001", "AUTH-007")
def test_every_protected_endpoint_verifies_the_token(vault: Vault, ada: Creator):
    header, claims, _ = parts_of(vault.tokens.token(ada.did))
    forged = compact(header, claims, Ed25519PrivateKey.generate().sign)
    for method, path, request in protected_requests(ada):
        with clause("AUTH-001"):
            expect_error(vault.send(method, path, **request), 401, "CDV_AUTHN")
        with clause("AUTH-007"):
            response = vault.send(method, path, headers={"Authorization": f"Bearer {forged}"}, **request)
            expect_error(response, 401, "CDV_JWT_INVALID")


@judges("AUTH-009")
def test_no_endpoint_accepts_an_expired_token(vault: Vault, ada: Creator, minter: KeyTokens):
    now = minter.now()
    expired = {"Authorization": f"Bearer {minter.mint(ada.did, exp=now - 600, iat=now - 1200)}"}
    for method, path, request in protected_requests(ada):
        expect_error(vault.send(method, path, headers=expired, **request), 401, "CDV_JWT_EXPIRED")


_MALFORMED: dict[str, Callable[[str, str, str], str]] = {
    "two parts": lambda header, claims, _: f"{header}.{claims}",
    "four parts": lambda header, claims, signature: f"{header}.{claims}.{signature}.{signature}",
    "one part": lambda header, *_: header,
    "a header that is not base64url": lambda _, claims, signature: f"a!b.{claims}.{signature}",
    "claims that are not base64url": lambda header, _, signature: f"{header}.a!b.{signature}",
    "claims with one character too many": lambda header, claims, signature: f"{header}.{claims}!.{signature}",
    "a signature that is not base64url": lambda header, claims, _: f"{header}.{claims}.a!b",
    "a signature with one character too many": lambda header, claims, signature: f"{header}.{claims}.{signature}!",
    "claims of an impossible base64url length": lambda header, _, signature: f"{header}.abcde.{signature}",
    "a signature of an impossible base64url length": lambda header, claims, _: f"{header}.{claims}.abcde",
    "a header that is not JSON": lambda _, claims, signature: f"{b64(b'nothing')}.{claims}.{signature}",
    "a header that is a list": lambda _, claims, signature: f"{b64(b'[]')}.{claims}.{signature}",
    "no kid": lambda _, claims, signature: f"{b64(text({'alg': 'EdDSA', 'typ': 'JWT'}))}.{claims}.{signature}",
    "an empty header": lambda _, claims, signature: f".{claims}.{signature}",
    "noise": lambda *_: "noise",
}


@judges("AUTH-002")
@for_all(every=True, form=st.sampled_from([*_MALFORMED]))
def test_a_malformed_token_is_reported_as_malformed(vault: Vault, ada: Creator, form: str):
    expect_error(
        present_token(vault, _MALFORMED[form](*vault.tokens.token(ada.did).split("."))), 401, "CDV_JWT_MALFORMED"
    )


@judges("AUTH-003")
@for_all(flipped=st.integers(0, 511), change=st.sampled_from(["signature", "claims", "swap", "none"]))
def test_a_changed_token_is_refused(vault: Vault, ada: Creator, bob: Creator, flipped: int, change: str):
    header, claims, signature = vault.tokens.token(ada.did).split(".")
    raw = bytearray(base64.urlsafe_b64decode(signature + "=="))
    raw[flipped // 8 % len(raw)] ^= 1 << flipped % 8
    changed = b64(text({**parts_of(f"{header}.{claims}.{signature}")[1], "sub": bob.did}))
    other = vault.tokens.token(bob.did).split(".")[2]
    forged = {
        "signature": f"{header}.{claims}.{b64(bytes(raw))}",
        "claims": f"{header}.{changed}.{signature}",
        "swap": f"{header}.{claims}.{other}",
        "none": f"{header}.{claims}.",
    }[change]

    codes = ["CDV_JWT_INVALID", *(["CDV_JWT_MALFORMED"] if change == "none" else [])]
    expect_error(present_token(vault, forged), 401, *codes)


@judges("AUTH-004")
@for_all(
    every=True, alg=st.sampled_from(["none", "None", "NONE", "nOnE", ""]), signed=st.sampled_from(["", "kept", "zeros"])
)
def test_a_token_with_algorithm_none_is_refused(vault: Vault, ada: Creator, alg: str, signed: str):
    header, claims, signature = parts_of(vault.tokens.token(ada.did))
    end = {"": "", "kept": signature, "zeros": b64(bytes(64))}[signed]
    forged = f"{b64(text({**header, 'alg': alg}))}.{b64(text(claims))}.{end}"

    # A token with an empty signature may also be reported as malformed.
    expect_error(present_token(vault, forged), 401, "CDV_JWT_INVALID", *([] if signed else ["CDV_JWT_MALFORMED"]))


@judges("AUTH-005")
@for_all(
    alg=st.sampled_from(["HS256", "HS512", "ES256", "RS256", "PS256", "ES256K", "Ed448", "eddsa", 1, None, ["EdDSA"]]),
    secret=st.integers(0, 3),
)
def test_another_algorithm_is_refused(vault: Vault, ada: Creator, alg: Any, secret: int):
    header, claims, _ = parts_of(vault.tokens.token(ada.did))
    keys = _public_forms(vault)
    key = keys[secret % len(keys)]

    def sign(content: bytes) -> bytes:
        if alg == "ES256":
            return ec.generate_private_key(ec.SECP256R1()).sign(content, ec.ECDSA(SHA256()))
        if alg == "HS512":
            return hmac.new(key, content, hashlib.sha512).digest()
        return hmac.new(key, content, hashlib.sha256).digest()

    expect_error(
        present_token(vault, compact({**header, "alg": alg}, claims, sign)),
        401,
        "CDV_JWT_INVALID",
        *_malformed_if(alg is None or not isinstance(alg, str)),
    )


@judges("AUTH-005")
def test_a_good_signature_under_another_algorithms_name_is_refused(vault: Vault, ada: Creator, minter: KeyTokens):
    for alg in ("HS256", "none", "ES256", "Ed448", "eddsa", "ed25519"):
        expect_error(present_token(vault, minter.mint(ada.did, header=minter.header(alg=alg))), 401, "CDV_JWT_INVALID")
    expect_error(
        present_token(vault, minter.mint(ada.did, header=minter.header(alg=...))),
        401,
        "CDV_JWT_INVALID",
        "CDV_JWT_MALFORMED",
    )


@judges("AUTH-006")
@for_all(cost=2, member=st.sampled_from(["jwk", "jku", "x5u", "x5c"]), named=st.booleans())
def test_a_key_named_in_the_token_itself_is_not_trusted(vault: Vault, ada: Creator, member: str, named: bool):
    header, claims, _ = parts_of(vault.tokens.token(ada.did))
    own = Key.new()
    brought = {"jwk": own.jwk(), "jku": "http://127.0.0.1:9/jwks.json", "x5u": "http://127.0.0.1:9/x", "x5c": ["AAAA"]}
    kid = header["kid"] if named else own.kid

    expect_error(
        present_token(vault, compact({**header, "kid": kid, member: brought[member]}, claims, own.private.sign)),
        401,
        "CDV_JWT_INVALID",
    )


@judges("AUTH-007")
def test_another_keys_signature_is_refused(vault: Vault, ada: Creator):
    header, claims, _ = parts_of(vault.tokens.token(ada.did))

    expect_error(
        present_token(vault, compact(header, claims, Ed25519PrivateKey.generate().sign)), 401, "CDV_JWT_INVALID"
    )


@judges("AUTH-008")
@for_all(
    every=True,
    kid=st.sampled_from(["unknown", "../../../dev/null", "' OR 1=1 --", "x" * 500, "\x00", "", 1, None, ["a"], {}]),
)
def test_an_unknown_key_is_refused(vault: Vault, ada: Creator, kid: Any):
    header, claims, _ = parts_of(vault.tokens.token(ada.did))
    known = isinstance(kid, str) and kid != ""

    response = present_token(vault, compact({**header, "kid": kid}, claims, Ed25519PrivateKey.generate().sign))

    expect_error(response, 401, "CDV_JWT_INVALID", *_malformed_if(not known))


@judges("AUTH-009")
@for_all(cost=2, ago=st.integers(75, 10**6))
def test_an_expired_token_is_reported_as_expired(vault: Vault, ada: Creator, minter: KeyTokens, ago: int):
    now = minter.now()

    expect_error(present_token(vault, minter.mint(ada.did, exp=now - ago, iat=now - ago - 60)), 401, "CDV_JWT_EXPIRED")


@judges("AUTH-010")
@for_all(cost=2, seconds=st.integers(1, 45))
def test_clocks_may_differ_by_a_minute(vault: Vault, ada: Creator, minter: KeyTokens, seconds: int):
    now = minter.now()

    assert_accepted(present_token(vault, minter.mint(ada.did, exp=now - seconds, iat=now - 600)))
    assert_accepted(present_token(vault, minter.mint(ada.did, nbf=now + seconds)))
    assert_accepted(present_token(vault, minter.mint(ada.did, iat=now + seconds)))


@judges("AUTH-011")
@for_all(cost=2, claim=st.sampled_from(["nbf", "iat"]), ahead=st.integers(75, 10**6))
def test_a_token_that_is_not_yet_valid_is_refused(
    vault: Vault, ada: Creator, minter: KeyTokens, claim: str, ahead: int
):
    now = minter.now()

    changes: dict[str, Any] = {claim: now + ahead, "exp": now + ahead + 600}
    response = present_token(vault, minter.mint(ada.did, **changes))

    expect_error(response, 401, "CDV_JWT_INVALID")


@judges("AUTH-012")
@for_all(every=True, form=st.sampled_from(["https://elsewhere.example", "", "{}/", "{}x", "x{}", " {}"]))
def test_another_issuer_is_refused(vault: Vault, ada: Creator, minter: KeyTokens, form: str):
    expect_error(present_token(vault, minter.mint(ada.did, iss=form.format(minter.issuer))), 401, "CDV_JWT_INVALID")


@judges("AUTH-013")
@for_all(
    every=True,
    form=st.sampled_from(["elsewhere", "", "{}x", "x{}", "{} ", ["elsewhere"], [], [["{}"]], ["{}x"], {"{}": 1}]),
)
def test_another_audience_is_refused(vault: Vault, ada: Creator, minter: KeyTokens, form: Any):
    aud = json.loads(json.dumps(form).replace("{}", minter.audience)) if form != {"{}": 1} else {minter.audience: 1}

    expect_error(present_token(vault, minter.mint(ada.did, aud=aud)), 401, "CDV_JWT_INVALID")


@judges("AUTH-014")
def test_one_matching_audience_of_several_is_enough(vault: Vault, ada: Creator, minter: KeyTokens):
    for aud in ([minter.audience], ["elsewhere", minter.audience], minter.audience):
        assert_accepted(present_token(vault, minter.mint(ada.did, aud=aud)))
    assert_accepted(present_token(vault, minter.mint(ada.did, iat=..., nbf=...)))
    assert_accepted(present_token(vault, minter.mint(ada.did, extra={"a": [1]}, scope="x")))


@judges("AUTH-015")
@for_all(
    every=True,
    claim=st.sampled_from(
        [
            ("iss", ...),
            ("aud", ...),
            ("exp", ...),
            ("sub", ...),
            ("iss", 1),
            ("iss", ["ISSUER"]),
            ("aud", None),
            ("aud", 1),
            ("exp", "soon"),
            ("exp", None),
            ("exp", "99999999999"),
            ("sub", 1),
            ("sub", None),
            ("sub", ["did:example:a"]),
            ("exp", [1]),
            ("nbf", "x"),
        ]
    ),
)
def test_a_claim_that_is_missing_or_bad_is_refused(
    vault: Vault, ada: Creator, minter: KeyTokens, claim: tuple[str, Any]
):
    name, value = claim
    value = [minter.issuer] if value == ["ISSUER"] else value

    changes: dict[str, Any] = {name: value}
    expect_error(present_token(vault, minter.mint(ada.did, **changes)), 401, "CDV_JWT_INVALID")


@judges("AUTH-016")
@for_all(
    every=True,
    sub=st.sampled_from(["", "ada", "did:", "did:example", "https://example.com", "did:example:a b", "DID:example:a"]),
)
def test_a_subject_that_is_no_did_is_refused(vault: Vault, minter: KeyTokens, sub: str):
    expect_error(present_token(vault, minter.mint(sub)), 401, "CDV_JWT_INVALID")


@judges("AUTH-017")
def test_the_algorithm_has_two_names(vault: Vault, ada: Creator, minter: KeyTokens):
    for alg in ("EdDSA", "Ed25519"):
        assert_accepted(present_token(vault, minter.mint(ada.did, header=minter.header(alg=alg))))
    assert_accepted(present_token(vault, minter.mint(ada.did, header=minter.header(typ=...))))


def _public_forms(vault: Vault) -> list[bytes]:
    """Return forms of the public key, which an attacker knows, to be used as HMAC secrets."""
    if vault.minter is None:
        return [b"", secrets.token_bytes(32)]
    public = vault.minter.key.public
    return [public, b64(public).encode(), text(vault.minter.key.jwk()), b""]


def _malformed_if(condition: bool) -> list[str]:
    """Return the second allowed code for cases in which the contract leaves open which of two it is."""
    return ["CDV_JWT_MALFORMED"] if condition else []
