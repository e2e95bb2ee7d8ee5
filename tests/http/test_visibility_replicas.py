"""Owner-only collections stay so on every replica, whatever catalogue each of them has (docs/schemas.md)."""

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
    """Start a replica on the shared database, with its own data dir, which is empty unless it is named."""
    numbers = count()

    @asynccontextmanager
    async def started(specs_url: str | None, data_dir: str = "") -> AsyncIterator[Api]:
        folder = tmp_path / (data_dir or f"pod-{next(numbers)}")
        async with serving(folder, db_dsn=SecretStr(postgres_dsn), specs_url=specs_url) as api:
            yield api

    return started


def unreachable_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


async def run_task(api: Api, name: str = "refresh the catalogue") -> None:
    (found,) = (background for background in api.service.background_tasks if background.name == name)
    await found.run()


async def write(api: Api) -> tuple[str, str]:
    """Write a record of the secret collection; return its owner and URI."""
    ada = api.creator()
    return ada.did, (await ada.created(collection=SECRET, record={"text": "mine"}))["uri"]


async def assert_owner_only(api: Api, did: str, uri: str) -> None:
    refused(await api.http.get("/v1/repo/record", params={"uri": uri}), 401, "CDV_AUTHN")
    refused(await api.creator().get(uri), 403, "CDV_AUTHZ")
    listed = await api.http.get("/v1/repo/listRecords", params={"did": did, "collection": SECRET})
    assert listed.status_code in {401, 400}  # without the collection in its catalogue a replica has no listing of it
    assert data(await api.http.get("/v1/repo/listRecords", params={"did": did}))["records"] == []
    owner = Creator(api, did)
    assert data(await owner.get(uri))["uri"] == uri
    assert [record["uri"] for record in data(await owner.list())["records"]] == [uri]


async def assert_public(api: Api, did: str, uri: str) -> None:
    assert data(await api.http.get("/v1/repo/record", params={"uri": uri}))["uri"] == uri
    listed = data(await api.http.get("/v1/repo/listRecords", params={"did": did}))["records"]
    assert [record["uri"] for record in listed] == [uri]


@pytest.mark.parametrize("source", ["down", "not set", "omits the collection", "omits the visibility"])
async def test_a_new_replica_keeps_owner_only_collections(source: str, replica: StartReplica, tmp_path: Path) -> None:
    async with replica(publish(tmp_path / "specs", secret="owner")) as first:
        did, uri = await write(first)
        await assert_owner_only(first, did, uri)
    url = {
        "down": unreachable_url,
        "not set": lambda: None,
        "omits the collection": lambda: publish(tmp_path / "specs", other="public"),
        "omits the visibility": lambda: publish(tmp_path / "specs", secret=None),
    }[source]()
    async with replica(url) as second:
        await assert_owner_only(second, did, uri)
        known = {"omits the collection": "com.example.other", "omits the visibility": SECRET}.get(source, PROFILE)
        assert data(await second.creator().create(collection=known))  # so the intended catalogue is in use
    async with replica(unreachable_url()) as third:
        await assert_owner_only(third, did, uri)


async def test_an_embedded_vault_keeps_owner_only_collections_without_a_catalogue_url(tmp_path: Path) -> None:
    async with serving(tmp_path / "vault", specs_url=publish(tmp_path / "specs", secret="owner")) as first:
        did, uri = await write(first)
    async with serving(tmp_path / "vault") as again:
        await assert_owner_only(again, did, uri)


async def test_an_index_that_declares_a_collection_public_opens_it_on_every_replica(
    replica: StartReplica, tmp_path: Path
) -> None:
    url = publish(tmp_path / "specs", secret="owner")
    async with (
        replica(url) as first,
        replica(url) as second,
        replica(unreachable_url()) as blind,
        replica(None) as bundled,
    ):
        did, uri = await write(first)
        publish(tmp_path / "specs", secret="public")
        await run_task(first)
        await assert_public(first, did, uri)
        for other in (second, blind, bundled):
            await assert_owner_only(other, did, uri)
        await run_task(second)
        await run_task(blind)
        await run_task(bundled, "sync the owner-only collections")
        for other in (first, second, blind, bundled):
            await assert_public(other, did, uri)
    async with replica(unreachable_url()) as new:
        await assert_public(new, did, uri)


async def test_a_replica_whose_source_is_down_learns_owner_only_collections_from_another(
    replica: StartReplica, tmp_path: Path
) -> None:
    url = publish(tmp_path / "specs", secret="public")
    async with replica(unreachable_url()) as blind, replica(None) as bundled, replica(url, "behind") as behind:
        publish(tmp_path / "newer", secret="owner")
        (tmp_path / "specs" / "SPEC_INDEX.json").unlink()
        async with replica((tmp_path / "newer").as_uri()) as informed:
            did, uri = await write(informed)
            await run_task(behind)  # which knows only the older index, and must not override the newer
            await run_task(blind)
            await run_task(bundled, "sync the owner-only collections")
            for each in (informed, blind, bundled, behind):
                await assert_owner_only(each, did, uri)
    async with replica(url, "behind") as restarted:
        await assert_owner_only(restarted, did, uri)


@pytest.mark.parametrize("source", ["down", "another"])
async def test_owner_only_collections_not_stored_before_a_stop_are_stored_by_the_next_start(
    source: str, replica: StartReplica, tmp_path: Path
) -> None:
    url = publish(tmp_path / "specs", secret="owner")
    await UrlSchemas.at(url, tmp_path / "pod").open()  # what a start does before it stores them
    (tmp_path / "specs" / "SPEC_INDEX.json").unlink()
    async with replica(url if source == "down" else unreachable_url(), "pod"):
        pass
    async with replica(publish(tmp_path / "open", secret=None)) as new:
        did, uri = await write(new)
        await assert_owner_only(new, did, uri)


async def test_owner_only_collections_of_a_late_catalogue_are_stored_once_it_arrives(
    replica: StartReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdv_adapters.bootstrap._SPECS_AT_START_SECONDS", 0.1)
    publish(tmp_path / "specs", secret="owner")
    began = threading.Event()
    with catalogue_server() as server:
        files = (tmp_path / "specs").rglob("*.json")
        server.publish({str(file.relative_to(tmp_path / "specs")): file.read_bytes() for file in files})

        def late(handler: BaseHTTPRequestHandler) -> None:
            began.wait(5)
            server.misbehave = None
            server.answer(handler)

        server.misbehave = late
        async with replica(server.url) as informed, replica(unreachable_url()) as blind:
            refused(await informed.creator().create(collection=SECRET), 400, "CDV_VALIDATION")
            began.set()
            await run_task(informed, "take over the late catalogue")
            did, uri = await write(informed)
            await assert_owner_only(informed, did, uri)
            async with replica(unreachable_url()) as new:
                await assert_owner_only(new, did, uri)
            assert [task.name for task in blind.service.background_tasks if task.until_success] == []


async def test_a_refresh_without_the_database_applies_the_catalogue_and_stores_it_later(tmp_path: Path) -> None:
    store = FakeOwnerOnlyStore()
    url = publish(tmp_path / "specs", secret="public")
    with Container.owner_only_store.override(providers.Object(store)):
        async with serving(tmp_path / "vault", specs_url=url) as api:
            publish(tmp_path / "specs", secret="owner")
            store.error = Unavailable("database")
            with pytest.raises(Unavailable):
                await run_task(api)
            did, uri = await write(api)
            await assert_owner_only(api, did, uri)
            store.error = None
            assert SECRET not in store.kept
            await run_task(api)
            assert SECRET in store.kept
            notes = store.notes
            await run_task(api)
            assert store.notes == notes


async def test_a_start_that_cannot_read_the_owner_only_collections_is_refused(tmp_path: Path) -> None:
    store = FakeOwnerOnlyStore()
    store.error = Unavailable("database")
    with (
        Container.owner_only_store.override(providers.Object(store)),
        pytest.raises(CannotStart, match="only their owners may read"),
    ):
        async with open_service(Settings.embedded(tmp_path)):
            pass


@pytest.mark.parametrize("visibility", ["owner", "public"])
async def test_a_service_that_does_not_own_the_database_stores_nothing(visibility: str, tmp_path: Path) -> None:
    url = publish(tmp_path / "specs", secret="owner" if visibility == "public" else "public")
    async with serving(tmp_path / "vault", specs_url=url) as api:
        did, uri = await write(api)
    publish(tmp_path / "specs", secret=visibility)
    settings = Settings.embedded(tmp_path / "vault").model_copy(update={"specs_url": url})
    async with open_service(settings, owns_database=False) as service:
        assert (SECRET in service.vault.records._schemas.catalogue.owner_only) == (visibility == "owner")
    (tmp_path / "vault" / "catalogue.msgpack").unlink()
    async with open_service(
        settings.model_copy(update={"specs_url": unreachable_url()}), owns_database=False
    ) as service:
        assert (SECRET in service.vault.records._schemas.catalogue.owner_only) == (visibility == "public")
    async with serving(tmp_path / "vault") as api:
        await (assert_public if visibility == "owner" else assert_owner_only)(api, did, uri)
