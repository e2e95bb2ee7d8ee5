"""Tokens, good ones and forged ones."""

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
from conformance.http.vault import FINALIZE, FLAG, INIT, LIST, RECORD, Creator, Vault, refused

_ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def knock(vault: Vault, token: str) -> httpx.Response:
    """Show a token at an endpoint that needs one and changes nothing."""
    return vault.send("GET", f"/v1/media/{_ID}/meta", headers={"Authorization": f"Bearer {token}"})


def doors_of(creator: Creator) -> list[tuple[str, str, dict[str, Any]]]:
    """Return a good request to each endpoint that asks for a token, for things that are there."""
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


def admitted(answer: httpx.Response) -> None:
    refused(answer, 404, "CDV_NOT_FOUND")


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

    answer = vault.send(method, path, headers=headers, body=ada.body() if method == "POST" else None)

    refused(answer, 401, *({"CDV_AUTHN", "CDV_JWT_MALFORMED"} if authorization == "Bearer" else {"CDV_AUTHN"}))


@judges("AUTH-001", "AUTH-007")
def test_no_door_is_left_open(vault: Vault, ada: Creator):
    header, claims, _ = parts_of(vault.tokens.token(ada.did))
    forged = compact(header, claims, Ed25519PrivateKey.generate().sign)
    for method, path, request in doors_of(ada):
        with clause("AUTH-001"):
            refused(vault.send(method, path, **request), 401, "CDV_AUTHN")
        with clause("AUTH-007"):
            answer = vault.send(method, path, headers={"Authorization": f"Bearer {forged}"}, **request)
            refused(answer, 401, "CDV_JWT_INVALID")


@judges("AUTH-009")
def test_an_expired_token_opens_no_door(vault: Vault, ada: Creator, minter: KeyTokens):
    now = minter.now()
    expired = {"Authorization": f"Bearer {minter.mint(ada.did, exp=now - 600, iat=now - 1200)}"}
    for method, path, request in doors_of(ada):
        refused(vault.send(method, path, headers=expired, **request), 401, "CDV_JWT_EXPIRED")


_MALFORMED: dict[str, Callable[[str, str, str], str]] = {
    "two parts": lambda header, claims, _: f"{header}.{claims}",
    "four parts": lambda header, claims, signature: f"{header}.{claims}.{signature}.{signature}",
    "one part": lambda header, *_: header,
    "a header that is no base64url": lambda _, claims, signature: f"a!b.{claims}.{signature}",
    "claims that are no base64url": lambda header, _, signature: f"{header}.a!b.{signature}",
    "claims with a sign too much": lambda header, claims, signature: f"{header}.{claims}!.{signature}",
    "a signature that is no base64url": lambda header, claims, _: f"{header}.{claims}.a!b",
    "a signature with a sign too much": lambda header, claims, signature: f"{header}.{claims}.{signature}!",
    "claims of a length that base64url never has": lambda header, _, signature: f"{header}.abcde.{signature}",
    "a signature of a length that base64url never has": lambda header, claims, _: f"{header}.{claims}.abcde",
    "a header that is no JSON": lambda _, claims, signature: f"{b64(b'nothing')}.{claims}.{signature}",
    "a header that is a list": lambda _, claims, signature: f"{b64(b'[]')}.{claims}.{signature}",
    "no kid": lambda _, claims, signature: f"{b64(text({'alg': 'EdDSA', 'typ': 'JWT'}))}.{claims}.{signature}",
    "an empty header": lambda _, claims, signature: f".{claims}.{signature}",
    "noise": lambda *_: "noise",
}


@judges("AUTH-002")
@for_all(every=True, form=st.sampled_from([*_MALFORMED]))
def test_what_is_no_token_is_called_malformed(vault: Vault, ada: Creator, form: str):
    refused(knock(vault, _MALFORMED[form](*vault.tokens.token(ada.did).split("."))), 401, "CDV_JWT_MALFORMED")


@judges("AUTH-003")
@for_all(flipped=st.integers(0, 511), change=st.sampled_from(["signature", "claims", "swap", "none"]))
def test_a_changed_token_is_worth_nothing(vault: Vault, ada: Creator, bob: Creator, flipped: int, change: str):
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
    refused(knock(vault, forged), 401, *codes)


@judges("AUTH-004")
@for_all(
    every=True, alg=st.sampled_from(["none", "None", "NONE", "nOnE", ""]), signed=st.sampled_from(["", "kept", "zeros"])
)
def test_no_algorithm_is_no_signature(vault: Vault, ada: Creator, alg: str, signed: str):
    header, claims, signature = parts_of(vault.tokens.token(ada.did))
    end = {"": "", "kept": signature, "zeros": b64(bytes(64))}[signed]
    forged = f"{b64(text({**header, 'alg': alg}))}.{b64(text(claims))}.{end}"

    # An empty signature is no base64url of anything: it may be called malformed as well.
    refused(knock(vault, forged), 401, "CDV_JWT_INVALID", *([] if signed else ["CDV_JWT_MALFORMED"]))


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

    refused(
        knock(vault, compact({**header, "alg": alg}, claims, sign)),
        401,
        "CDV_JWT_INVALID",
        *_if(alg is None or not isinstance(alg, str)),
    )


@judges("AUTH-005")
def test_a_good_signature_under_another_algorithms_name_is_refused(vault: Vault, ada: Creator, minter: KeyTokens):
    for alg in ("HS256", "none", "ES256", "Ed448", "eddsa", "ed25519"):
        refused(knock(vault, minter.mint(ada.did, header=minter.header(alg=alg))), 401, "CDV_JWT_INVALID")
    refused(
        knock(vault, minter.mint(ada.did, header=minter.header(alg=...))), 401, "CDV_JWT_INVALID", "CDV_JWT_MALFORMED"
    )


@judges("AUTH-006")
@for_all(cost=2, member=st.sampled_from(["jwk", "jku", "x5u", "x5c"]), named=st.booleans())
def test_a_key_brought_along_opens_nothing(vault: Vault, ada: Creator, member: str, named: bool):
    header, claims, _ = parts_of(vault.tokens.token(ada.did))
    own = Key.new()
    brought = {"jwk": own.jwk(), "jku": "http://127.0.0.1:9/jwks.json", "x5u": "http://127.0.0.1:9/x", "x5c": ["AAAA"]}
    kid = header["kid"] if named else own.kid

    refused(
        knock(vault, compact({**header, "kid": kid, member: brought[member]}, claims, own.private.sign)),
        401,
        "CDV_JWT_INVALID",
    )


@judges("AUTH-007")
def test_another_keys_signature_is_refused(vault: Vault, ada: Creator):
    header, claims, _ = parts_of(vault.tokens.token(ada.did))

    refused(knock(vault, compact(header, claims, Ed25519PrivateKey.generate().sign)), 401, "CDV_JWT_INVALID")


@judges("AUTH-008")
@for_all(
    every=True,
    kid=st.sampled_from(["unknown", "../../../dev/null", "' OR 1=1 --", "x" * 500, "\x00", "", 1, None, ["a"], {}]),
)
def test_an_unknown_key_is_refused(vault: Vault, ada: Creator, kid: Any):
    header, claims, _ = parts_of(vault.tokens.token(ada.did))
    known = isinstance(kid, str) and kid != ""

    answer = knock(vault, compact({**header, "kid": kid}, claims, Ed25519PrivateKey.generate().sign))

    refused(answer, 401, "CDV_JWT_INVALID", *_if(not known))


@judges("AUTH-009")
@for_all(cost=2, ago=st.integers(75, 10**6))
def test_an_expired_token_is_told_so(vault: Vault, ada: Creator, minter: KeyTokens, ago: int):
    now = minter.now()

    refused(knock(vault, minter.mint(ada.did, exp=now - ago, iat=now - ago - 60)), 401, "CDV_JWT_EXPIRED")


@judges("AUTH-010")
@for_all(cost=2, seconds=st.integers(1, 45))
def test_clocks_may_differ_by_a_minute(vault: Vault, ada: Creator, minter: KeyTokens, seconds: int):
    now = minter.now()

    admitted(knock(vault, minter.mint(ada.did, exp=now - seconds, iat=now - 600)))
    admitted(knock(vault, minter.mint(ada.did, nbf=now + seconds)))
    admitted(knock(vault, minter.mint(ada.did, iat=now + seconds)))


@judges("AUTH-011")
@for_all(cost=2, claim=st.sampled_from(["nbf", "iat"]), ahead=st.integers(75, 10**6))
def test_a_token_of_tomorrow_is_refused_today(vault: Vault, ada: Creator, minter: KeyTokens, claim: str, ahead: int):
    now = minter.now()

    changes: dict[str, Any] = {claim: now + ahead, "exp": now + ahead + 600}
    answer = knock(vault, minter.mint(ada.did, **changes))

    refused(answer, 401, "CDV_JWT_INVALID")


@judges("AUTH-012")
@for_all(every=True, form=st.sampled_from(["https://elsewhere.example", "", "{}/", "{}x", "x{}", " {}"]))
def test_another_issuer_is_refused(vault: Vault, ada: Creator, minter: KeyTokens, form: str):
    refused(knock(vault, minter.mint(ada.did, iss=form.format(minter.issuer))), 401, "CDV_JWT_INVALID")


@judges("AUTH-013")
@for_all(
    every=True,
    form=st.sampled_from(["elsewhere", "", "{}x", "x{}", "{} ", ["elsewhere"], [], [["{}"]], ["{}x"], {"{}": 1}]),
)
def test_another_audience_is_refused(vault: Vault, ada: Creator, minter: KeyTokens, form: Any):
    aud = json.loads(json.dumps(form).replace("{}", minter.audience)) if form != {"{}": 1} else {minter.audience: 1}

    refused(knock(vault, minter.mint(ada.did, aud=aud)), 401, "CDV_JWT_INVALID")


@judges("AUTH-014")
def test_an_audience_among_others_will_do(vault: Vault, ada: Creator, minter: KeyTokens):
    for aud in ([minter.audience], ["elsewhere", minter.audience], minter.audience):
        admitted(knock(vault, minter.mint(ada.did, aud=aud)))
    admitted(knock(vault, minter.mint(ada.did, iat=..., nbf=...)))
    admitted(knock(vault, minter.mint(ada.did, extra={"a": [1]}, scope="x")))


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
    refused(knock(vault, minter.mint(ada.did, **changes)), 401, "CDV_JWT_INVALID")


@judges("AUTH-016")
@for_all(
    every=True,
    sub=st.sampled_from(["", "ada", "did:", "did:example", "https://example.com", "did:example:a b", "DID:example:a"]),
)
def test_a_subject_that_is_no_did_is_refused(vault: Vault, minter: KeyTokens, sub: str):
    refused(knock(vault, minter.mint(sub)), 401, "CDV_JWT_INVALID")


@judges("AUTH-017")
def test_the_algorithm_has_two_names(vault: Vault, ada: Creator, minter: KeyTokens):
    for alg in ("EdDSA", "Ed25519"):
        admitted(knock(vault, minter.mint(ada.did, header=minter.header(alg=alg))))
    admitted(knock(vault, minter.mint(ada.did, header=minter.header(typ=...))))


def _public_forms(vault: Vault) -> list[bytes]:
    """Return what an attacker knows of the key, as HMAC secrets."""
    if vault.minter is None:
        return [b"", secrets.token_bytes(32)]
    public = vault.minter.key.public
    return [public, b64(public).encode(), text(vault.minter.key.jwk()), b""]


def _if(condition: bool) -> list[str]:
    """Where the contract leaves open which of two refusals it is."""
    return ["CDV_JWT_MALFORMED"] if condition else []
