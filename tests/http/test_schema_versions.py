"""Schema versions and their states in createRecord (spec: schema catalogue)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.catalogue_index import read_index
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Catalogue
from tests.fakes.clock import FakeClock
from tests.http.api import Api, Creator, data, refused, serving

NOTE = "com.example.note"
SUNSET = datetime(2027, 1, 1, tzinfo=UTC)
BEFORE = datetime(2026, 12, 1, tzinfo=UTC)
DEPRECATED = {"version": "1.0.0", "status": "deprecated", "deprecatedAt": "2026-06-01T00:00:00Z"}
INDEX = {
    "generatedAt": "2026-11-24T00:00:00Z",
    "schemas": [
        {
            "namespace": "com.example",
            "name": "note",
            "latestStable": "2.0.0",
            "versions": [
                {"version": "0.9.0", "status": "retired"},
                {**DEPRECATED, "sunset": "2027-01-01T00:00:00Z", "replacedBy": "2.0.0"},
                {**DEPRECATED, "version": "1.1.0"},
                {"version": "2.0.0", "status": "stable"},
                {"version": "3.0.0", "status": "draft"},
            ],
        }
    ],
}
SCHEMA = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "required": ["text"]}


class FakeSchemas:
    """A source whose catalogue a test replaces."""

    def __init__(self, **changes: Any) -> None:
        self.catalogue = catalogue(**changes)

    def restrict_to_owners(self, collections: frozenset[Nsid]) -> None:
        self.catalogue = self.catalogue.with_owner_only(collections)


def catalogue(**changes: Any) -> Catalogue:
    note = {**INDEX["schemas"][0], **changes}  # type: ignore[dict-item]
    index = read_index(json.dumps({**INDEX, "schemas": [note]}).encode())
    return build_catalogue(index, {document.path: json.dumps(SCHEMA).encode() for document in index.documents()})


@pytest.fixture(scope="module")
async def frozen(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    async with serving(tmp_path_factory.mktemp("still"), FakeClock(BEFORE), FakeSchemas()) as api:
        yield api


async def note(creator: Creator, **members: Any) -> Any:
    return await creator.create(**{"collection": NOTE, "record": {"text": "x"}, **members})


async def test_without_a_version_the_latest_stable_one_is_used(frozen: Api) -> None:
    answer = await note(frozen.creator())
    assert data(answer)["schemaVersion"] == "2.0.0"
    assert set(answer.json()) == {"data"}


async def test_a_deprecated_version_is_accepted_with_a_warning_and_deprecation_headers(frozen: Api) -> None:
    creator = frozen.creator()
    answer = await note(creator, schemaVersion="1.0.0", idempotencyKey="k")
    assert data(answer)["schemaVersion"] == "1.0.0"
    (warning,) = answer.json()["meta"]["warnings"]
    assert warning["code"] == "schema_deprecated"
    assert (warning["collection"], warning["schemaVersion"]) == (NOTE, "1.0.0")
    assert warning["sunset"] == "2027-01-01T00:00:00.000000Z"
    assert warning["replacedBy"] == "2.0.0"
    assert answer.headers["deprecation"] == f"@{int(datetime(2026, 6, 1, tzinfo=UTC).timestamp())}"
    assert answer.headers["sunset"] == "Fri, 01 Jan 2027 00:00:00 GMT"
    again = await note(creator, schemaVersion="1.0.0", idempotencyKey="k")
    assert again.content == answer.content
    for header in ("deprecation", "sunset"):
        assert again.headers[header] == answer.headers[header]


async def test_without_a_sunset_there_is_no_sunset_header(frozen: Api) -> None:
    answer = await note(frozen.creator(), schemaVersion="1.1.0")
    assert "sunset" not in answer.json()["meta"]["warnings"][0]
    assert "sunset" not in answer.headers
    assert answer.headers["deprecation"].startswith("@")


async def test_a_version_is_refused_from_its_sunset_on(tmp_path: Path) -> None:
    clock = FakeClock(SUNSET - timedelta(microseconds=1))
    async with serving(tmp_path, clock, FakeSchemas()) as api:
        creator = api.creator()
        first = await note(creator, schemaVersion="1.0.0", idempotencyKey="k")
        assert data(first)
        clock.moment = SUNSET
        error = refused(await note(creator, schemaVersion="1.0.0"), 400, "CDV_SCHEMA_REJECT")
        assert error["details"]["violations"][0]["rule"] == "status"
        assert data(await note(creator, schemaVersion="1.1.0"))
        # A retry is still replayed (spec: idempotency).
        again = await note(creator, schemaVersion="1.0.0", idempotencyKey="k")
        assert again.content == first.content
        assert again.headers["idempotent-replayed"] == "true"
        refused(
            await note(creator, schemaVersion="1.0.0", idempotencyKey="k", record={"text": "y"}), 409, "CDV_CONFLICT"
        )
        refused(await note(creator, schemaVersion="1.0.0", idempotencyKey="new"), 400, "CDV_SCHEMA_REJECT")


async def test_a_setting_refuses_deprecated_versions_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, FakeClock(BEFORE), FakeSchemas(), reject_deprecated_schemas=True) as api:
        for version in ("1.0.0", "1.1.0"):
            refused(await note(api.creator(), schemaVersion=version), 400, "CDV_SCHEMA_REJECT")
        assert data(await note(api.creator()))


async def test_a_retired_version_is_refused(frozen: Api) -> None:
    refused(await note(frozen.creator(), schemaVersion="0.9.0"), 400, "CDV_SCHEMA_REJECT")


async def test_a_draft_version_is_accepted_in_development(frozen: Api) -> None:
    assert data(await note(frozen.creator(), schemaVersion="3.0.0"))["schemaVersion"] == "3.0.0"


@pytest.mark.parametrize("env", ["staging", "prod"])
async def test_a_draft_version_is_refused_outside_development(tmp_path: Path, env: str) -> None:
    async with serving(tmp_path, schemas=FakeSchemas(), env=env) as api:
        refused(await note(api.creator(), schemaVersion="3.0.0"), 400, "CDV_SCHEMA_REJECT")
        assert data(await note(api.creator()))


async def test_a_record_keeps_the_version_that_it_was_validated_against(frozen: Api) -> None:
    creator = frozen.creator()
    uris = {version: data(await note(creator, schemaVersion=version))["uri"] for version in ("1.0.0", "1.1.0", "2.0.0")}
    for version, uri in uris.items():
        assert data(await creator.get(uri))["schemaVersion"] == version
    listed = {each["uri"]: each["schemaVersion"] for each in data(await creator.list())["records"]}
    assert listed == {uri: version for version, uri in uris.items()}


async def test_a_retry_is_replayed_after_its_schema_is_removed_or_replaced(tmp_path: Path) -> None:
    schemas = FakeSchemas()
    async with serving(tmp_path, FakeClock(BEFORE), schemas) as api:
        creator = api.creator()
        first = await note(creator, idempotencyKey="k")
        named = await note(creator, idempotencyKey="named", schemaVersion="2.0.0")
        schemas.catalogue = catalogue(versions=["4.0.0"], latestStable="4.0.0")
        assert (await note(creator, idempotencyKey="k")).content == first.content
        assert (await note(creator, idempotencyKey="named", schemaVersion="2.0.0")).content == named.content
        refused(await note(creator, idempotencyKey="new", schemaVersion="2.0.0"), 400, "CDV_VALIDATION")
        schemas.catalogue = catalogue(name="other")
        assert (await note(creator, idempotencyKey="k")).content == first.content
        refused(await note(creator, idempotencyKey="new"), 400, "CDV_VALIDATION")
