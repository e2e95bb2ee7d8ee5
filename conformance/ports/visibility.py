"""The contract of OwnerOnlyStore: a collection stays restricted to owners until it is explicitly made public."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cdv_core.domain.identifiers import Nsid
from conformance.ports.stores import FLAG, LIKE, POST, DatabaseContract, OpenStores, Stores, unavailable_until_back


class OwnerOnlyContract(DatabaseContract):
    """To use it, inherit and provide the fixture `open_stores`."""

    async def test_no_collection_is_owner_only_at_first(self, stores: Stores):
        assert await stores.owner_only.owner_only() == frozenset()

    async def test_an_owner_only_collection_stays_so_until_it_is_made_public(self, stores: Stores):
        await stores.owner_only.note([FLAG, POST], [])
        await stores.owner_only.note([LIKE], [])
        assert await stores.owner_only.owner_only() == {FLAG, POST, LIKE}

        await stores.owner_only.note([], [POST, LIKE])
        assert await stores.owner_only.owner_only() == {FLAG}

    async def test_one_call_adds_and_removes(self, stores: Stores):
        await stores.owner_only.note([FLAG], [])
        await stores.owner_only.note([POST], [FLAG])
        assert await stores.owner_only.owner_only() == {POST}

    async def test_noting_again_changes_nothing(self, stores: Stores):
        for _ in range(2):
            await stores.owner_only.note([FLAG, FLAG], [POST])
            assert await stores.owner_only.owner_only() == {FLAG}
        await stores.owner_only.note([], [])
        assert await stores.owner_only.owner_only() == {FLAG}

    async def test_a_collection_noted_as_both_stays_owner_only(self, stores: Stores):
        for _ in range(2):
            await stores.owner_only.note([FLAG], [FLAG])
            assert await stores.owner_only.owner_only() == {FLAG}

    async def test_names_are_returned_unchanged(self, stores: Stores):
        names = frozenset(map(Nsid, ["com.example.secretNote", "com.example.secretnote", f"com.example.{'x' * 63}"]))
        await stores.owner_only.note(names, [])
        given = await stores.owner_only.owner_only()
        assert given == names
        assert {type(name) for name in given} == {Nsid}

    async def test_changes_of_one_replica_are_visible_to_the_others(self, nodes: tuple[Stores, Stores]):
        one, other = nodes
        await one.owner_only.note([FLAG, POST], [])
        assert await other.owner_only.owner_only() == {FLAG, POST}
        await other.owner_only.note([], [POST])
        assert await one.owner_only.owner_only() == {FLAG}

    async def test_changes_survive_the_instance_that_made_them(self, stores: Stores, again: OpenStores):
        async with again() as other:
            await other.owner_only.note([FLAG], [])
        async with again() as other:
            assert await other.owner_only.owner_only() == {FLAG}

    async def test_every_call_raises_unavailable_while_the_server_is_down(
        self, stores: Stores, away: Callable[[bool], None]
    ):
        note = stores.owner_only.note
        await unavailable_until_back(away, stores.owner_only.owner_only, lambda: note([FLAG], []))

    async def test_concurrent_changes_of_replicas_are_not_lost(self, nodes: tuple[Stores, Stores]):
        names = [Nsid(f"com.example.n{number}") for number in range(20)]
        one, other = (node.owner_only.note for node in nodes)
        await one([FLAG], [])

        await asyncio.gather(
            *(one(names, []) for _ in range(5)),
            *(other(names[::-1], []) for _ in range(5)),
            *(other([name], [FLAG]) for name in names),
        )

        assert await nodes[0].owner_only.owner_only() == set(names)
