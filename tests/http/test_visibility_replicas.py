"""What is its owner's only stays so on every replica, whatever catalogue each of them has (docs/schemas.md)."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest
from dependency_injector import providers
from pydantic import SecretStr

from cdv_adapters.bootstrap import open_service
from cdv_adapters.container import Container
from cdv_adapters.schemas.url import UrlSchemas
from cdv_adapters.settings import Settings
from cdv_core.errors import CannotStart, Unavailable
from tests.adapters.catalogue_server import catalogue_server
from tests.core.catalogues import publish
from tests.fakes.visibility import FakeOwnerOnlyStore
from tests.http.api import PROFILE, Api, Creator, data, refused, serving
from tests.servers.process import free_port

SECRET = "com.example.secret"


class StartReplica(Protocol):
    def __call__(self, specs_url: str | None, data_dir: str = "") -> Any: ...


@pytest.fixture
def replica(postgres_dsn: str, tmp_path: Path) -> StartReplica:
    """Starts a replica on the one database, with a data dir of its own that is empty unless it is named."""
    numbers = count()

    @asynccontextmanager
    async def started(specs_url: str | None, data_dir: str = "") -> AsyncIterator[Api]:
        folder = tmp_path / (data_dir or f"pod-{next(numbers)}")
        async with serving(folder, db_dsn=SecretStr(postgres_dsn), specs_url=specs_url) as api:
            yield api

    return started


def nowhere() -> str:
    return f"http://127.0.0.1:{free_port()}"


async def task(api: Api, name: str = "refresh the catalogue") -> None:
    (found,) = (it for it in api.service.background_tasks if it.name == name)
    await found.run()


async def write(api: Api) -> tuple[str, str]:
    """Write a record of the secret collection; return its owner and URI."""
    ada = api.creator()
    return ada.did, (await ada.created(collection=SECRET, record={"text": "mine"}))["uri"]


async def is_its_owners_only(api: Api, did: str, uri: str) -> None:
    refused(await api.http.get("/v1/repo/record", params={"uri": uri}), 401, "CDV_AUTHN")
    refused(await api.creator().get(uri), 403, "CDV_AUTHZ")
    listed = await api.http.get("/v1/repo/listRecords", params={"did": did, "collection": SECRET})
    assert listed.status_code in {401, 400}  # without the collection in its catalogue a replica has no listing of it
    assert data(await api.http.get("/v1/repo/listRecords", params={"did": did}))["records"] == []
    owner = Creator(api, did)
    assert data(await owner.get(uri))["uri"] == uri
    assert [it["uri"] for it in data(await owner.list())["records"]] == [uri]


async def is_public(api: Api, did: str, uri: str) -> None:
    assert data(await api.http.get("/v1/repo/record", params={"uri": uri}))["uri"] == uri
    listed = data(await api.http.get("/v1/repo/listRecords", params={"did": did}))["records"]
    assert [it["uri"] for it in listed] == [uri]


@pytest.mark.parametrize("source", ["down", "not set", "forgets it", "says nothing of it"])
async def test_a_new_replica_keeps_what_is_its_owners_only(source: str, replica: StartReplica, tmp_path: Path) -> None:
    async with replica(publish(tmp_path / "specs", secret="owner")) as first:
        did, uri = await write(first)
        await is_its_owners_only(first, did, uri)
    url = {
        "down": nowhere,
        "not set": lambda: None,
        "forgets it": lambda: publish(tmp_path / "specs", other="public"),
        "says nothing of it": lambda: publish(tmp_path / "specs", secret=None),
    }[source]()
    async with replica(url) as second:
        await is_its_owners_only(second, did, uri)
        known = {"forgets it": "com.example.other", "says nothing of it": SECRET}.get(source, PROFILE)
        assert data(await second.creator().create(collection=known))  # so the catalogue meant is in force
    async with replica(nowhere()) as third:
        await is_its_owners_only(third, did, uri)


async def test_an_embedded_vault_keeps_it_when_it_follows_no_catalogue_any_more(tmp_path: Path) -> None:
    async with serving(tmp_path / "vault", specs_url=publish(tmp_path / "specs", secret="owner")) as first:
        did, uri = await write(first)
    async with serving(tmp_path / "vault") as again:
        await is_its_owners_only(again, did, uri)


async def test_an_index_that_says_public_opens_it_on_every_replica(replica: StartReplica, tmp_path: Path) -> None:
    url = publish(tmp_path / "specs", secret="owner")
    async with replica(url) as first, replica(url) as second, replica(nowhere()) as blind, replica(None) as bundled:
        did, uri = await write(first)
        publish(tmp_path / "specs", secret="public")
        await task(first)
        await is_public(first, did, uri)
        for other in (second, blind, bundled):
            await is_its_owners_only(other, did, uri)
        await task(second)
        await task(blind)
        await task(bundled, "sync the owner-only collections")
        for other in (first, second, blind, bundled):
            await is_public(other, did, uri)
    async with replica(nowhere()) as new:
        await is_public(new, did, uri)


async def test_a_replica_whose_source_is_down_learns_what_another_was_told(
    replica: StartReplica, tmp_path: Path
) -> None:
    url = publish(tmp_path / "specs", secret="public")
    async with replica(nowhere()) as blind, replica(None) as bundled, replica(url, "behind") as behind:
        publish(tmp_path / "newer", secret="owner")
        (tmp_path / "specs" / "SPEC_INDEX.json").unlink()
        async with replica((tmp_path / "newer").as_uri()) as told:
            did, uri = await write(told)
            await task(behind)  # which was told of nothing but the older index, and must not have the last word
            await task(blind)
            await task(bundled, "sync the owner-only collections")
            for each in (told, blind, bundled, behind):
                await is_its_owners_only(each, did, uri)
    async with replica(url, "behind") as restarted:
        await is_its_owners_only(restarted, did, uri)


@pytest.mark.parametrize("source", ["down", "another"])
async def test_what_was_in_force_and_not_noted_when_a_replica_ended_is_noted_by_the_next(
    source: str, replica: StartReplica, tmp_path: Path
) -> None:
    url = publish(tmp_path / "specs", secret="owner")
    await UrlSchemas.at(url, tmp_path / "pod").open()  # all that a start does before it notes
    (tmp_path / "specs" / "SPEC_INDEX.json").unlink()
    async with replica(url if source == "down" else nowhere(), "pod"):
        pass
    async with replica(publish(tmp_path / "open", secret=None)) as new:
        did, uri = await write(new)
        await is_its_owners_only(new, did, uri)


async def test_a_catalogue_that_is_late_for_the_start_is_noted_once_it_is_there(
    replica: StartReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdv_adapters.bootstrap._SPECS_AT_START_SECONDS", 0.1)
    publish(tmp_path / "specs", secret="owner")
    began = threading.Event()
    with catalogue_server() as server:
        files = (tmp_path / "specs").rglob("*.json")
        server.publish({str(it.relative_to(tmp_path / "specs")): it.read_bytes() for it in files})

        def late(handler: BaseHTTPRequestHandler) -> None:
            began.wait(5)
            server.misbehave = None
            server.answer(handler)

        server.misbehave = late
        async with replica(server.url) as told, replica(nowhere()) as blind:
            refused(await told.creator().create(collection=SECRET), 400, "CDV_VALIDATION")
            began.set()
            await task(told, "take over the late catalogue")
            did, uri = await write(told)
            await is_its_owners_only(told, did, uri)
            async with replica(nowhere()) as new:
                await is_its_owners_only(new, did, uri)
            assert [it.name for it in blind.service.background_tasks if it.until_success] == []


async def test_a_refresh_without_the_database_is_put_off_with_the_catalogue_in_force(tmp_path: Path) -> None:
    store = FakeOwnerOnlyStore()
    url = publish(tmp_path / "specs", secret="public")
    with Container.owner_only_store.override(providers.Object(store)):
        async with serving(tmp_path / "vault", specs_url=url) as api:
            publish(tmp_path / "specs", secret="owner")
            store.error = Unavailable("database")
            with pytest.raises(Unavailable):
                await task(api)
            did, uri = await write(api)
            await is_its_owners_only(api, did, uri)
            store.error = None
            assert SECRET not in store.kept
            await task(api)
            assert SECRET in store.kept
            notes = store.notes
            await task(api)
            assert store.notes == notes


async def test_a_start_that_cannot_learn_them_is_refused_on_one_line(tmp_path: Path) -> None:
    store = FakeOwnerOnlyStore()
    store.error = Unavailable("database")
    with (
        Container.owner_only_store.override(providers.Object(store)),
        pytest.raises(CannotStart, match="only their owners may read"),
    ):
        async with open_service(Settings.embedded(tmp_path)):
            pass


@pytest.mark.parametrize("visibility", ["owner", "public"])
async def test_who_only_looks_notes_nothing(visibility: str, tmp_path: Path) -> None:
    url = publish(tmp_path / "specs", secret="owner" if visibility == "public" else "public")
    async with serving(tmp_path / "vault", specs_url=url) as api:
        did, uri = await write(api)
    publish(tmp_path / "specs", secret=visibility)
    settings = Settings.embedded(tmp_path / "vault").model_copy(update={"specs_url": url})
    async with open_service(settings, owns_database=False) as service:
        assert (SECRET in service.vault.records._schemas.catalogue.owner_only) == (visibility == "owner")
    (tmp_path / "vault" / "catalogue.msgpack").unlink()
    async with open_service(settings.model_copy(update={"specs_url": nowhere()}), owns_database=False) as service:
        assert (SECRET in service.vault.records._schemas.catalogue.owner_only) == (visibility == "public")
    async with serving(tmp_path / "vault") as api:
        await (is_public if visibility == "owner" else is_its_owners_only)(api, did, uri)
