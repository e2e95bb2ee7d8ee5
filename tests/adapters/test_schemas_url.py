"""Following a catalogue at a URL: loaded completely, cached on disk, fetched sparingly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from loguru import logger
from msgspec.structs import replace

from cdv_adapters.schemas.cache import CachedCatalogue, CatalogueCache
from cdv_adapters.schemas.specs_url import SpecsUrl
from cdv_adapters.schemas.url import UrlSchemas, fetch_catalogue
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Catalogue
from cdv_core.errors import CannotStart, Unavailable
from tests.adapters.catalogue_server import CatalogueServer, catalogue_server, send
from tests.core.catalogues import entry, index_bytes

POST = Nsid("com.example.post")


def catalogue_of(*versions: str, digests: bool = False, most: int = 10, **more: Any) -> dict[str, bytes]:
    """Return the files of a catalogue of one collection."""
    documents = {f"{POST}/{it}.json": json.dumps({"maxProperties": most, "title": it}).encode() for it in versions}
    listed: list[Any] = list(versions)
    if digests:
        sums = {path: hashlib.sha256(body).hexdigest() for path, body in documents.items()}
        listed = [{"version": version, "sha256": sums[f"{POST}/{version}.json"]} for version in versions]
    index = index_bytes(entry(POST, listed, latest=versions[-1]), **more)
    return {"SPEC_INDEX.json": index, **documents}


def write(folder: Path, files: dict[str, bytes]) -> str:
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder.as_uri()


def versions(source: UrlSchemas) -> list[str]:
    return list(source.catalogue.collection(POST).versions) if POST in source.catalogue else []


@pytest.fixture
def server() -> Iterator[CatalogueServer]:
    with catalogue_server() as running:
        yield running


async def test_a_catalogue_is_loaded_from_an_http_server(server: CatalogueServer, tmp_path: Path):
    server.publish(catalogue_of("1.0.0", "1.1.0"))
    source = UrlSchemas.at(server.url, tmp_path)
    assert source.state.origin == "bundled"
    await source.open()
    assert versions(source) == ["1.0.0", "1.1.0"]
    assert (source.state.origin, source.state.outcome, source.state.collections) == ("source", "updated", 1)
    await source.check()


async def test_a_catalogue_is_loaded_from_a_folder_url_with_or_without_a_trailing_slash(tmp_path: Path):
    url = write(tmp_path / "specs", catalogue_of("1.0.0"))
    for named in (url, url + "/"):
        source = UrlSchemas.at(named, tmp_path / "data")
        await source.open()
        assert versions(source) == ["1.0.0"]


async def test_a_newly_published_version_is_in_force_after_the_next_refresh(server: CatalogueServer, tmp_path: Path):
    server.publish(catalogue_of("1.0.0"))
    source = UrlSchemas.at(server.url, tmp_path)
    await source.open()
    before = source.catalogue
    server.publish(catalogue_of("1.0.0", "1.1.0"))
    await source.refresh()
    assert versions(source) == ["1.0.0", "1.1.0"]
    # A request in flight keeps the old catalogue.
    assert list(before.collection(POST).versions) == ["1.0.0"]


async def test_a_changed_file_in_the_folder_is_detected_at_the_next_refresh(tmp_path: Path):
    url = write(tmp_path / "specs", catalogue_of("1.0.0", most=1))
    source = UrlSchemas.at(url, tmp_path / "data")
    await source.open()
    await source.refresh()
    unchanged = source.state
    write(tmp_path / "specs", catalogue_of("1.0.0", most=2))
    await source.refresh()
    assert [unchanged.outcome, source.state.outcome] == ["unchanged", "updated"]


async def test_a_changed_document_of_a_published_version_is_loaded_with_a_warning(tmp_path: Path):
    warnings: list[str] = []
    url = write(tmp_path / "specs", catalogue_of("1.0.0", most=1))
    source = UrlSchemas.at(url, tmp_path / "data")
    sink = logger.add(warnings.append, level="WARNING", format="{message}")
    try:
        await source.open()
        write(tmp_path / "specs", catalogue_of("1.0.0", "1.1.0", most=1))
        await source.refresh()
        assert warnings == []
        write(tmp_path / "specs", catalogue_of("1.0.0", "1.1.0", most=2))
        await source.refresh()
    finally:
        logger.remove(sink)
    assert [warning.split(" has changed")[0] for warning in warnings] == [f"{POST} 1.0.0", f"{POST} 1.1.0"]
    assert source.catalogue.collection(POST).versions["1.0.0"].violations({"a": 1, "b": 2}) == ()


async def test_an_unchanged_index_costs_one_conditional_request(server: CatalogueServer, tmp_path: Path):
    server.publish(catalogue_of("1.0.0"))
    source = UrlSchemas.at(server.url, tmp_path)
    await source.open()
    server.paths()
    catalogue = source.catalogue
    await source.refresh()
    assert [(path, etag is not None) for path, etag in server.requests] == [("SPEC_INDEX.json", True)]
    assert source.state.outcome == "unchanged"
    assert source.catalogue is catalogue


async def test_without_etags_a_refresh_fetches_only_the_unchanged_index(server: CatalogueServer, tmp_path: Path):
    server.publish(catalogue_of("1.0.0"))
    server.misbehave = lambda handler: send(handler, server.files[handler.path.lstrip("/")])
    source = UrlSchemas.at(server.url, tmp_path)
    await source.open()
    server.paths()
    await source.refresh()
    assert server.paths() == ["SPEC_INDEX.json"]
    assert source.state.outcome == "unchanged"


async def test_documents_with_a_known_digest_are_not_fetched_again(server: CatalogueServer, tmp_path: Path):
    server.publish(catalogue_of("1.0.0", "1.1.0", digests=True))
    source = UrlSchemas.at(server.url, tmp_path)
    await source.open()
    server.paths()
    server.publish(catalogue_of("1.0.0", "1.1.0", "1.2.0", digests=True))
    await source.refresh()
    assert server.paths() == ["SPEC_INDEX.json", f"{POST}/1.2.0.json"]
    assert versions(source) == ["1.0.0", "1.1.0", "1.2.0"]


# Restarts


async def test_a_restart_without_the_network_keeps_the_catalogue(server: CatalogueServer, tmp_path: Path):
    server.publish(catalogue_of("1.0.0", "1.1.0"))
    first = UrlSchemas.at(server.url, tmp_path)
    await first.open()
    server.misbehave = lambda handler: handler.send_error(503)
    again = UrlSchemas.at(server.url, tmp_path)
    await again.open()
    assert versions(again) == ["1.0.0", "1.1.0"]
    assert (again.state.origin, again.state.outcome) == ("cache", "failed")


async def test_after_a_restart_the_cached_catalogue_is_revalidated_by_one_request(
    server: CatalogueServer, tmp_path: Path
):
    server.publish(catalogue_of("1.0.0"))
    await UrlSchemas.at(server.url, tmp_path).open()
    server.paths()
    again = UrlSchemas.at(server.url, tmp_path)
    await again.open()
    assert server.paths() == ["SPEC_INDEX.json"]
    assert (again.state.origin, again.state.outcome) == ("cache", "unchanged")


async def test_an_owner_only_collection_stays_owner_only_when_the_source_drops_it(
    server: CatalogueServer, tmp_path: Path
):
    files = catalogue_of("1.0.0")
    index = json.loads(files["SPEC_INDEX.json"])
    index["schemas"][0]["visibility"] = "owner"
    server.publish({**files, "SPEC_INDEX.json": json.dumps(index).encode()})
    first = UrlSchemas.at(server.url, tmp_path)
    await first.open()
    assert first.catalogue.owner_only == {POST, "com.registryaccord.moderation.flag"}

    others = index_bytes(entry("com.example.other", ["1.0.0"]))
    server.publish({"SPEC_INDEX.json": others, "com.example.other/1.0.0.json": b"{}"})
    await first.refresh()
    again = UrlSchemas.at(server.url, tmp_path)
    again.restrict_to_owners(first.catalogue.owner_only)
    await again.open()
    for source in (first, again):
        assert POST not in source.catalogue
        assert source.catalogue.owner_only == {POST, "com.registryaccord.moderation.flag"}


def with_visibility(visibility: str | None, files: dict[str, bytes]) -> dict[str, bytes]:
    index = json.loads(files["SPEC_INDEX.json"])
    index["schemas"][0]["visibility"] = visibility
    if visibility is None:
        del index["schemas"][0]["visibility"]
    return {**files, "SPEC_INDEX.json": json.dumps(index).encode()}


@pytest.mark.parametrize("visibility", [None, "owner"])
async def test_restricted_collections_stay_owner_only_whatever_catalogue_is_in_force(
    visibility: str | None, tmp_path: Path
):
    restricted = frozenset({POST, Nsid("com.example.gone")})
    source = UrlSchemas.at((tmp_path / "specs").as_uri(), tmp_path / "data")
    source.restrict_to_owners(restricted)
    assert source.catalogue.owner_only > restricted
    await source.open()
    assert versions(source) == []
    assert source.catalogue.owner_only > restricted
    write(tmp_path / "specs", with_visibility(visibility, catalogue_of("1.0.0")))
    await source.refresh()
    assert versions(source) == ["1.0.0"]
    assert source.catalogue.owner_only > restricted


async def test_only_a_freshly_read_source_makes_a_restricted_collection_public(tmp_path: Path):
    restricted = frozenset({POST})
    url = write(tmp_path / "specs", with_visibility("public", catalogue_of("1.0.0")))
    await UrlSchemas.at(url, tmp_path / "data").open()
    index = (tmp_path / "specs" / "SPEC_INDEX.json").read_bytes()
    (tmp_path / "specs" / "SPEC_INDEX.json").unlink()

    source = UrlSchemas.at(url, tmp_path / "data")
    source.restrict_to_owners(restricted)
    await source.open()
    assert source.state.origin == "cache"
    assert (POST in source.catalogue.owner_only, POST in source.catalogue.public) == (True, False)
    (tmp_path / "specs" / "SPEC_INDEX.json").write_bytes(index)
    await source.refresh()
    assert source.state.outcome == "unchanged"
    assert (POST in source.catalogue.owner_only, POST in source.catalogue.public) == (False, True)

    # A restriction that was stored after the source was last read takes precedence over it.
    for broken in (b"", None):
        if broken is None:
            (tmp_path / "specs" / "SPEC_INDEX.json").unlink()
        else:
            (tmp_path / "specs" / "SPEC_INDEX.json").write_bytes(broken)
        await source.refresh()
        source.restrict_to_owners(restricted)
        assert (POST in source.catalogue.owner_only, POST in source.catalogue.public) == (True, False)
        (tmp_path / "specs" / "SPEC_INDEX.json").write_bytes(index)
        await source.refresh()
        assert POST not in source.catalogue.owner_only


async def test_a_restriction_added_while_a_catalogue_is_built_applies_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = UrlSchemas.at(write(tmp_path / "specs", catalogue_of("1.0.0")), tmp_path / "data")
    build = source._build

    def meanwhile(published: CachedCatalogue) -> Catalogue:
        catalogue = build(published)
        source.restrict_to_owners(frozenset({POST}))
        return catalogue

    monkeypatch.setattr(source, "_build", meanwhile)
    await source.open()
    assert versions(source) == ["1.0.0"]
    assert POST in source.catalogue.owner_only


@pytest.mark.parametrize("url", ["the same", "another"])
async def test_owner_only_entries_in_a_cache_of_earlier_code_are_migrated(url: str, tmp_path: Path):
    specs = write(tmp_path / "specs", catalogue_of("1.0.0"))
    await UrlSchemas.at(specs, tmp_path / "data").open()
    path = tmp_path / "data" / "catalogue.msgpack"
    kept = msgspec.msgpack.decode(path.read_bytes())
    assert "owner_only" not in kept
    path.write_bytes(msgspec.msgpack.encode({**kept, "owner_only": [str(POST), "com.example.gone"]}))

    source = UrlSchemas.at(specs if url == "the same" else (tmp_path / "none").as_uri(), tmp_path / "data")
    await source.open()
    assert source.state.origin == ("cache" if url == "the same" else "bundled")
    assert source.catalogue.owner_only > {POST, "com.example.gone"}

    write(tmp_path / ("specs" if url == "the same" else "none"), catalogue_of("1.0.0", "1.1.0"))
    await source.refresh()
    assert source.catalogue.owner_only > {POST, "com.example.gone"}
    assert "owner_only" not in msgspec.msgpack.decode(path.read_bytes())


@pytest.mark.parametrize("copy", ["of another URL", "that today's rules refuse"])
async def test_an_owner_only_collection_stays_owner_only_when_the_cache_is_unusable(copy: str, tmp_path: Path):
    files = catalogue_of("1.0.0")
    index = json.loads(files["SPEC_INDEX.json"])
    index["schemas"][0]["visibility"] = "owner"
    url = write(tmp_path / "one", {**files, "SPEC_INDEX.json": json.dumps(index).encode()})
    await UrlSchemas.at(url, tmp_path / "data").open()
    if copy == "of another URL":
        url = (tmp_path / "two").as_uri()
    else:
        cache = CatalogueCache(tmp_path / "data" / "catalogue.msgpack")
        kept = cache.read()
        assert kept is not None
        cache.write(replace(kept, documents=dict.fromkeys(kept.documents, b'{"format": "odd"}')))
        (tmp_path / "one" / "SPEC_INDEX.json").unlink()
    source = UrlSchemas.at(url, tmp_path / "data")
    await source.open()
    assert source.state.origin == "bundled"
    assert source.catalogue.owner_only == {POST, "com.registryaccord.moderation.flag"}

    write(tmp_path / ("two" if copy == "of another URL" else "one"), files)
    await source.refresh()
    assert source.catalogue.collection(POST).visibility == "owner"


async def test_a_first_start_without_the_source_serves_the_bundled_catalogue(tmp_path: Path):
    source = UrlSchemas.at((tmp_path / "nothing").as_uri(), tmp_path / "data")
    await source.open()
    assert "com.registryaccord.profile" in source.catalogue
    assert (source.state.origin, source.state.outcome, source.state.failures) == ("bundled", "failed", 1)
    with pytest.raises(Unavailable):
        await source.check()


async def test_a_cache_of_another_url_is_ignored(tmp_path: Path):
    await UrlSchemas.at(write(tmp_path / "one", catalogue_of("1.0.0")), tmp_path / "data").open()
    other = UrlSchemas.at((tmp_path / "two").as_uri(), tmp_path / "data")
    await other.open()
    assert other.state.origin == "bundled"


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x80", b"x" * 1000, b"\x81\xa3url\xa1\xff"])
async def test_a_corrupt_cache_is_ignored(damage: bytes, tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "catalogue.msgpack").write_bytes(damage)
    source = UrlSchemas.at(write(tmp_path / "specs", catalogue_of("1.0.0")), tmp_path / "data")
    await source.open()
    assert (versions(source), source.state.origin) == (["1.0.0"], "source")


async def test_a_truncated_cache_is_ignored(tmp_path: Path):
    url = write(tmp_path / "specs", catalogue_of("1.0.0"))
    await UrlSchemas.at(url, tmp_path / "data").open()
    kept = tmp_path / "data" / "catalogue.msgpack"
    kept.write_bytes(kept.read_bytes()[:-10])
    assert CatalogueCache(kept).read() is None


async def test_a_cached_catalogue_that_fails_validation_is_ignored(tmp_path: Path):
    url = write(tmp_path / "specs", catalogue_of("1.0.0"))
    source = SpecsUrl(url)
    await UrlSchemas(source, CatalogueCache(tmp_path / "kept")).open()
    cache = CatalogueCache(tmp_path / "kept")
    kept = cache.read()
    assert kept is not None
    cache.write(type(kept)(kept.url, kept.stamp, kept.index, dict.fromkeys(kept.documents, b'{"format": "odd"}')))
    (tmp_path / "specs" / "SPEC_INDEX.json").unlink()
    again = UrlSchemas(source, cache)
    await again.open()
    assert again.state.origin == "bundled"


async def test_a_catalogue_is_used_even_if_the_cache_cannot_be_written(tmp_path: Path):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    source = UrlSchemas.at(write(tmp_path / "specs", catalogue_of("1.0.0")), blocked / "below")
    await source.open()
    assert versions(source) == ["1.0.0"]


async def test_writing_the_cache_leaves_no_temporary_files(tmp_path: Path):
    url = write(tmp_path / "specs", catalogue_of("1.0.0"))
    await UrlSchemas.at(url, tmp_path / "data").open()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["catalogue.msgpack"]


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/specs", "http://10.0.0.1/specs", "ftp://example.com/x", "example.com", "", "https://", "file://host/path",
        "https://user:pw@example.com/", "https://example.com/?x=1", "https://example.com/#x", "data:,x", "/etc/specs",
    ],
)  # fmt: skip
def test_an_unsupported_specs_url_is_refused_at_startup(url: str, tmp_path: Path):
    with pytest.raises(CannotStart, match="CDV_SPECS_URL"):
        UrlSchemas.at(url, tmp_path)


@pytest.mark.parametrize(
    "url", ["https://example.com", "http://localhost:1/x", "http://[::1]/x", "file:///a/b", "file://localhost/a"]
)
def test_https_file_and_loopback_http_urls_are_accepted(url: str):
    assert SpecsUrl(url).url.endswith("SPEC_INDEX.json")


def test_fetch_catalogue_loads_a_folder_and_refuses_an_unsupported_scheme(tmp_path: Path):
    assert POST in fetch_catalogue(write(tmp_path, catalogue_of("1.0.0")))
    with pytest.raises(ValueError, match="https://"):
        fetch_catalogue("ftp://x")
