"""Restrictions of collections to their owners are persisted, and written only when they change."""

from __future__ import annotations

import pytest

from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Catalogue
from cdv_core.errors import Unavailable
from cdv_core.use_cases.visibility import load_restrictions, sync_restrictions
from tests.core.catalogues import entry, index_of
from tests.fakes.visibility import FakeOwnerOnlyStore

SECRET, OPENED, GONE = Nsid("com.example.secret"), Nsid("com.example.opened"), Nsid("com.example.gone")


class Source:
    """A SchemaSource that decides what is public, as long as it `answers`."""

    def __init__(self) -> None:
        self.answers = True
        self.declared = build_catalogue(
            *index_of(
                entry(SECRET, ["1.0.0"], visibility="owner"),
                entry(OPENED, ["1.0.0"], visibility="public"),
                entry("com.example.post", ["1.0.0"]),
            )
        )
        self.catalogue: Catalogue = self.declared
        self.kept: frozenset[Nsid] = frozenset()

    def restrict_to_owners(self, collections: frozenset[Nsid]) -> None:
        self.kept = collections
        declared_public = self.declared.public if self.answers else frozenset()
        self.catalogue = self.declared.with_owner_only(collections - declared_public)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def store() -> FakeOwnerOnlyStore:
    return FakeOwnerOnlyStore()


async def test_stored_restrictions_are_applied_to_the_catalogue(source: Source, store: FakeOwnerOnlyStore):
    store.kept = frozenset({GONE})
    await load_restrictions(source, store)
    assert source.catalogue.owner_only == {SECRET, GONE}
    assert store.notes == 0


async def test_owner_only_collections_of_the_catalogue_are_stored_once(source: Source, store: FakeOwnerOnlyStore):
    for _ in range(2):
        await sync_restrictions(source, store)
        assert store.kept == {SECRET}
        assert store.notes == 1


async def test_only_collections_that_the_source_declares_public_lose_their_restriction(
    source: Source, store: FakeOwnerOnlyStore
):
    store.kept = frozenset({OPENED, GONE, Nsid("com.example.post")})
    for _ in range(2):
        await sync_restrictions(source, store)
        assert store.kept == source.catalogue.owner_only == {SECRET, GONE, "com.example.post"}
        assert source.kept == store.kept  # or the next catalogue would restrict it again
        assert store.notes == 1
    source.answers = False
    await sync_restrictions(source, store)
    assert OPENED not in source.catalogue.owner_only


async def test_an_unavailable_source_lifts_no_restriction_and_receives_those_of_other_replicas(
    source: Source, store: FakeOwnerOnlyStore
):
    await sync_restrictions(source, store)
    source.answers = False
    store.kept |= {OPENED, GONE}  # by another replica
    await sync_restrictions(source, store)
    assert store.kept == source.catalogue.owner_only == {SECRET, OPENED, GONE}
    assert store.notes == 1


async def test_restrictions_that_could_not_be_stored_are_stored_by_the_next_sync(
    source: Source, store: FakeOwnerOnlyStore
):
    store.error = Unavailable("database")
    for step in (load_restrictions, sync_restrictions):
        with pytest.raises(Unavailable):
            await step(source, store)
    assert source.catalogue.owner_only == {SECRET}
    store.error = None
    await sync_restrictions(source, store)
    assert store.kept == {SECRET}
