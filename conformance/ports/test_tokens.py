"""The verifiers, put to the contract."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from cdv_adapters.tokens.jwks import JwksTokenVerifier
from cdv_adapters.tokens.key_set import FetchedDocument, IssuerKeys
from cdv_adapters.tokens.local_key import LocalIssuer, LocalKeyTokenVerifier
from cdv_core.domain.identifiers import Did
from conformance.ports.tokens import Rig, TokenVerifierContract
from tests.fakes.clock import FakeClock
from tests.fakes.tokens import FakeTokenVerifier

ISSUER = "https://identity.example"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 11, 24, 2, 53, 29, tzinfo=UTC))


def issuer_in(directory: Path) -> LocalIssuer:
    return LocalIssuer.open(directory, issuer=ISSUER, audience="cdv")


class TestLocalKey(TokenVerifierContract):
    @pytest.fixture
    def rig(self, clock: FakeClock, tmp_path: Path) -> Rig:
        issuer, other = issuer_in(tmp_path / "ours"), issuer_in(tmp_path / "theirs")
        return Rig(
            LocalKeyTokenVerifier(issuer, clock),
            lambda did, ttl: issuer.issue(Did(did), ttl, clock.now()),
            lambda did, ttl: other.issue(Did(did), ttl, clock.now()),
            clock,
        )


class TestJwks(TokenVerifierContract):
    @pytest.fixture
    def rig(self, clock: FakeClock, tmp_path: Path) -> Rig:
        issuer, other = issuer_in(tmp_path / "ours"), issuer_in(tmp_path / "theirs")
        keys = IssuerKeys(lambda: FetchedDocument(msgspec.json.encode(issuer.jwks())))
        return Rig(
            JwksTokenVerifier(keys, issuer=ISSUER, audience="cdv", clock=clock),
            lambda did, ttl: issuer.issue(Did(did), ttl, clock.now()),
            lambda did, ttl: other.issue(Did(did), ttl, clock.now()),
            clock,
        )


class TestFake(TokenVerifierContract):
    @pytest.fixture
    def rig(self, clock: FakeClock) -> Rig:
        verifier, other = FakeTokenVerifier(clock), FakeTokenVerifier(clock)
        for _ in range(9):  # its tokens are numbered too: not with our numbers
            other.issue("did:web:first.example")
        return Rig(verifier, verifier.issue, other.issue, clock)
