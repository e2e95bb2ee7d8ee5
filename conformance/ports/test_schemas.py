"""Our schema sources against the contract: the bundled catalogue, and the same catalogue loaded from a URL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import pytest

from cdv_adapters.schemas.bundled import BundledSchemas
from cdv_adapters.schemas.url import UrlSchemas
from cdv_core.ports.schemas import SchemaSource
from conformance.ports.schemas import SchemaSourceContract, Swappable


@pytest.fixture(scope="module")
def bundled() -> SchemaSource:
    return BundledSchemas()


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> SchemaSource:
    folder = Path(str(files("cdv_core.catalogue")))
    source = UrlSchemas.at(folder.as_uri(), tmp_path_factory.mktemp("data"))
    asyncio.run(source.open())
    assert source.state.origin == "source"
    return source


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> SchemaSource:
    data, specs = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("specs")
    copy_catalogue(specs)
    asyncio.run(UrlSchemas.at(specs.as_uri(), data).open())
    (specs / "SPEC_INDEX.json").unlink()
    source = UrlSchemas.at(specs.as_uri(), data)
    asyncio.run(source.open())
    assert source.state.origin == "cache"
    return source


class TestBundledSchemas(SchemaSourceContract):
    @pytest.fixture
    def source(self, bundled: SchemaSource) -> SchemaSource:
        return bundled


class TestUrlSchemas(SchemaSourceContract):
    @pytest.fixture
    def source(self, followed: SchemaSource) -> SchemaSource:
        return followed

    @pytest.fixture
    async def swappable(self, tmp_path: Path) -> Swappable:
        specs = tmp_path / "specs"
        copy_catalogue(specs)
        source = UrlSchemas.at(specs.as_uri(), tmp_path)
        await source.open()

        async def swap(documents: Mapping[str, bytes]) -> None:
            copy_catalogue(specs)
            for name, document in documents.items():
                (specs / f"com.registryaccord.{name}" / "1.0.0.json").write_bytes(document)
            await source.refresh()

        return Swappable(source, swap)


class TestUrlSchemasAfterARestartWithoutTheSource(SchemaSourceContract):
    @pytest.fixture
    def source(self, kept: SchemaSource) -> SchemaSource:
        return kept


def copy_catalogue(folder: Path) -> None:
    original = Path(str(files("cdv_core.catalogue")))
    for path in original.rglob("*.json"):
        target = folder / path.relative_to(original)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
