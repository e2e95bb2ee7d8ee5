"""Fixtures for the tests, in addition to `plan` and `vault`, which the runner provides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from conformance.http.catalogue import LATEST, Catalogue
from conformance.http.event_log import EventLog
from conformance.http.plan import Plan
from conformance.http.requirements import Undecided, not_judged
from conformance.http.servers import Issuer
from conformance.http.tokens import KeyTokens
from conformance.http.vault import FOLLOW, PROFILE, REPLICAS_REACHED, Creator, Vault

RECORDS = 30  # of the writer: more than the default page size, few enough to write quickly
Test = TypeVar("Test", bound=Callable[..., object])
IN_FORCE_SECONDS = 30.0  # a target may fetch and compile the catalogue in the background after its start


def newcomer(*names: str) -> Callable[[Test], Test]:
    """Mark a test: those of the creators `ada` and `bob` that must never have written before."""

    def mark(test: Test) -> Test:
        test.newcomers = names  # type: ignore[attr-defined]
        return test

    return mark


@pytest.fixture
def ada(vault: Vault, request: pytest.FixtureRequest) -> Creator:
    """A creator. May have written before, since tokens may be expensive, unless the test is a `@newcomer("ada")`."""
    return _creator_named(vault, request, "ada")


@pytest.fixture
def bob(vault: Vault, request: pytest.FixtureRequest) -> Creator:
    """Another creator."""
    return _creator_named(vault, request, "bob")


def _creator_named(vault: Vault, request: pytest.FixtureRequest, name: str) -> Creator:
    return vault.creator() if name in getattr(request.function, "newcomers", ()) else vault.known(name)


@pytest.fixture
def minter(vault: Vault) -> KeyTokens:
    """Signs tokens with the key of an issuer that the target trusts."""
    if not isinstance(vault.tokens, KeyTokens):
        not_judged("needs --issuer-key or --own-issuer: without the issuer's key, no altered tokens can be signed")
    return vault.tokens


@pytest.fixture
def issuer(plan: Plan) -> Issuer:
    """The issuer that the run serves."""
    if plan.issuer is None:
        not_judged("needs --own-issuer, and a target that uses that issuer")
    return plan.issuer


@pytest.fixture(scope="session")
def catalogue(plan: Plan, vault: Vault) -> Catalogue:
    """The catalogue that the run serves, once it is in force at the target."""
    if plan.catalogue is None:
        not_judged("needs --catalogue, and a target that uses that catalogue")
    deadline = time.monotonic() + IN_FORCE_SECONDS
    in_a_row = 0  # replicas behind one address load it at different times
    while in_a_row < REPLICAS_REACHED:
        response = vault.known("ada").create(collection=LATEST, record={"text": "x"})
        in_a_row = in_a_row + 1 if response.status_code == 200 else 0
        if in_a_row:
            continue
        if time.monotonic() > deadline:
            reason = plan.catalogue.not_used_reason()
            if reason:
                raise Undecided(reason)
            raise AssertionError(
                f"the target fetched the catalogue, which is still not in force after {IN_FORCE_SECONDS:.0f} s"
            )
        time.sleep(0.2)
    return plan.catalogue


@pytest.fixture
def cors_origin(plan: Plan) -> str:
    """An origin that the target allows."""
    if not plan.cors_origin:
        not_judged("needs --cors-origin, with an origin that the target allows")
    return plan.cors_origin


@pytest.fixture(scope="session")
def events(plan: Plan) -> Iterator[EventLog]:
    """The events that the target publishes from now on."""
    if not plan.nats_url:
        not_judged("needs --nats, the URL of the NATS server on which the target publishes")
    with EventLog(plan.nats_url) as opened:
        yield opened


@pytest.fixture(scope="session")
def writer(vault: Vault) -> Creator:
    """A creator with RECORDS records in two collections, written one after the other."""
    creator = vault.creator()
    for number in range(RECORDS):
        record = {"displayName": str(number), "subject": "did:example:a"}
        creator.created(collection=FOLLOW if number % 3 == 0 else PROFILE, record=record)
    return creator


@pytest.fixture(scope="session")
def everything(writer: Creator) -> list[dict[str, Any]]:
    """All of the writer's records, newest first."""
    records = writer.listed()
    assert len(records) == RECORDS
    return records
