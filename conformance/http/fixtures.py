"""What a test may ask for beside `plan` and `vault`, which the runner gives."""

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

RECORDS = 30  # of the writer: more than the default page, few enough to write
Test = TypeVar("Test", bound=Callable[..., object])
IN_FORCE_SECONDS = 30.0  # fetched at the start, compiled off the request path


def newcomer(*names: str) -> Callable[[Test], Test]:
    """Mark a test: which of `ada` and `bob` must never have written before."""

    def mark(test: Test) -> Test:
        test.newcomers = names  # type: ignore[attr-defined]
        return test

    return mark


@pytest.fixture
def ada(vault: Vault, request: pytest.FixtureRequest) -> Creator:
    """Someone. Who must never have written before is named by `@newcomer("ada")`: tokens may cost."""
    return _someone(vault, request, "ada")


@pytest.fixture
def bob(vault: Vault, request: pytest.FixtureRequest) -> Creator:
    """Someone else."""
    return _someone(vault, request, "bob")


def _someone(vault: Vault, request: pytest.FixtureRequest, name: str) -> Creator:
    return vault.creator() if name in getattr(request.function, "newcomers", ()) else vault.known(name)


@pytest.fixture
def minter(vault: Vault) -> KeyTokens:
    """The key of an issuer that the target trusts."""
    if not isinstance(vault.tokens, KeyTokens):
        not_judged("needs --issuer-key or --own-issuer: tokens of a command cannot be altered")
    return vault.tokens


@pytest.fixture
def issuer(plan: Plan) -> Issuer:
    """The run's own issuer."""
    if plan.issuer is None:
        not_judged("needs --own-issuer")
    return plan.issuer


@pytest.fixture(scope="session")
def catalogue(plan: Plan, vault: Vault) -> Catalogue:
    """The run's own catalogue, in force at the target."""
    if plan.catalogue is None:
        not_judged("needs --catalogue")
    deadline = time.monotonic() + IN_FORCE_SECONDS
    in_a_row = 0  # replicas behind one address get it one after the other
    while in_a_row < REPLICAS_REACHED:
        answer = vault.known("ada").create(collection=LATEST, record={"text": "x"})
        in_a_row = in_a_row + 1 if answer.status_code == 200 else 0
        if in_a_row:
            continue
        if time.monotonic() > deadline:
            unfit = plan.catalogue.unfit()
            if unfit:
                raise Undecided(unfit)
            raise AssertionError("the catalogue was fetched and is not in force")
        time.sleep(0.2)
    return plan.catalogue


@pytest.fixture
def cors_origin(plan: Plan) -> str:
    """An origin that the target lists."""
    if not plan.cors_origin:
        not_judged("needs --cors-origin, one that the target lists")
    return plan.cors_origin


@pytest.fixture(scope="session")
def events(plan: Plan) -> Iterator[EventLog]:
    """What the target publishes from now on."""
    if not plan.nats_url:
        not_judged("needs --nats")
    with EventLog(plan.nats_url) as opened:
        yield opened


@pytest.fixture(scope="session")
def writer(vault: Vault) -> Creator:
    """Someone with RECORDS records in two collections, written one after the other."""
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
