"""Our token verifiers against the contract."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cdv_adapters.tokens.jwks import JwksTokenVerifier
from cdv_adapters.tokens.key_set import FetchedDocument, IssuerKeys, KeysNotFetched
from cdv_adapters.tokens.local_key import LocalIssuer, LocalKeyTokenVerifier
from cdv_core.domain.identifiers import Did
from cdv_core.ports.clock import Clock
from cdv_core.ports.tokens import TokenVerifier
from conformance.ports.tokens import Rig, TokenVerifierContract
from tests.adapters.minted_tokens import AUDIENCE, CLAIMS, HEADER, ISSUER, OWN, PRIVATE, PUBLIC, okp_jwk, text, token
from tests.fakes.clock import FakeClock
from tests.fakes.tokens import FakeTokenVerifier

PEM = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PUBLIC_FORMS = (PUBLIC, PUBLIC.hex().encode(), PEM, text(okp_jwk(PUBLIC, OWN.kid)), text(OWN.jwks()))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 11, 24, 2, 53, 29, tzinfo=UTC))


def changed(members: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**members, **changes}.items() if value is not ...}


def rig_of(verifier: TokenVerifier, clock: Clock, elsewhere: Path) -> Rig:
    other = LocalIssuer.open(elsewhere, issuer=ISSUER, audience=AUDIENCE)
    return Rig(
        verifier,
        lambda did, ttl: OWN.issue(Did(did), ttl, clock.now()),
        lambda did, ttl: other.issue(Did(did), ttl, clock.now()),
        clock,
        lambda claims, header: token(changed(HEADER, header), changed(CLAIMS, claims)),
        PUBLIC_FORMS,
    )


class TestLocalKey(TokenVerifierContract):
    @pytest.fixture
    def rig(self, clock: FakeClock, tmp_path: Path) -> Rig:
        return rig_of(LocalKeyTokenVerifier(OWN, clock), clock, tmp_path)


class TestJwks(TokenVerifierContract):
    @pytest.fixture
    def rig(self, clock: FakeClock, tmp_path: Path) -> Rig:
        gone = False

        def away(now: bool) -> None:
            nonlocal gone
            gone = now

        def fetch() -> FetchedDocument:
            if gone:
                raise KeysNotFetched("away")
            return FetchedDocument(msgspec.json.encode(OWN.jwks()))

        keys = IssuerKeys(fetch, retry_seconds=0)
        verifier = JwksTokenVerifier(keys, issuer=ISSUER, audience=AUDIENCE, clock=clock)
        return replace(rig_of(verifier, clock, tmp_path), away=away)


class TestFake(TokenVerifierContract):
    @pytest.fixture
    def rig(self, clock: FakeClock) -> Rig:
        verifier, other = FakeTokenVerifier(clock), FakeTokenVerifier(clock)
        for _ in range(9):  # its tokens are numbered as well; these numbers must differ from the verifier's
            other.issue("did:web:first.example")
        return Rig(verifier, verifier.issue, other.issue, clock)
