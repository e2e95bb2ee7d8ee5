"""Which schema version applies to a write, and whether it is accepted: before its sunset and from then on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Catalogue, Resolution
from cdv_core.errors import CollectionUnknown, SchemaVersionRefused, SchemaVersionUnknown
from tests.core.catalogues import entry, index_of

POST = Nsid("com.example.post")
SUNSET = datetime(2027, 3, 1, 12, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


def _catalogue() -> Catalogue:
    versions = [
        {"version": "0.9.0", "status": "retired"},
        {"version": "1.0.0", "status": "deprecated", "sunset": "2027-03-01T12:00:00Z", "replacedBy": "1.1.0"},
        {"version": "1.0.1", "status": "deprecated", "deprecatedAt": "2026-05-01T00:00:00Z"},
        {"version": "1.1.0", "status": "stable"},
        {"version": "1.2.0-beta.1", "status": "draft"},
    ]
    index, documents = index_of(
        entry("com.example.post", versions, latest="1.1.0"),
        entry("com.example.new", [{"version": "0.1.0", "status": "draft"}], latest=None),
        entry("com.example.secret", ["1.0.0"], visibility="owner"),
        entry(
            "com.example.old",
            ["1.0.0"],
            status="deprecated",
            sunset="2027-03-01T12:00:00Z",
            replacedBy="com.example.post",
        ),
    )
    return build_catalogue(index, documents)


CATALOGUE = _catalogue()


def _resolve(
    version: str | None = None,
    *,
    collection: str = POST,
    now: datetime = SUNSET - timedelta(days=30),
    allow_drafts: bool = False,
    reject_deprecated: bool = False,
) -> Resolution:
    return CATALOGUE.resolve(
        Nsid(collection), version, now=now, allow_drafts=allow_drafts, reject_deprecated=reject_deprecated
    )


def test_a_collection_resolves_to_its_latest_stable_version():
    resolution = _resolve()
    assert (resolution.schema.version, resolution.warnings) == ("1.1.0", ())
    assert (resolution.deprecated_at, resolution.sunset) == (None, None)


def test_a_named_version_is_resolved():
    assert _resolve("1.0.1").schema.version == "1.0.1"


def test_an_unknown_collection_is_refused_by_name():
    with pytest.raises(CollectionUnknown) as refused:
        _resolve(collection="com.example.nothing")
    assert refused.value.collection == "com.example.nothing"


@pytest.mark.parametrize("version", ["2.0.0", "1.1", "latest", "01.1.0"])
def test_an_unknown_version_is_refused_by_name(version: str):
    with pytest.raises(SchemaVersionUnknown) as refused:
        _resolve(version)
    assert (refused.value.collection, refused.value.version) == (POST, version)


def test_a_collection_with_only_drafts_has_no_default_version():
    with pytest.raises(SchemaVersionUnknown, match=r"com\.example\.new has no stable version yet; name one"):
        _resolve(collection="com.example.new", allow_drafts=True)


def test_a_deprecated_version_is_accepted_with_a_warning_until_its_sunset():
    resolution = _resolve("1.0.0", now=SUNSET - MOMENT)
    (warning,) = resolution.warnings
    assert warning.code == "schema_deprecated"
    when = "2027-03-01T12:00:00.000000Z"
    assert warning.as_json == {
        "code": "schema_deprecated",
        "message": f"com.example.post 1.0.0 is deprecated and will be refused from {when}; use 1.1.0",
        "collection": "com.example.post",
        "schemaVersion": "1.0.0",
        "sunset": "2027-03-01T12:00:00.000000Z",
        "replacedBy": "1.1.0",
    }
    assert resolution.sunset == SUNSET


@pytest.mark.parametrize("now", [SUNSET, SUNSET + MOMENT, SUNSET + timedelta(days=1000)])
def test_a_deprecated_version_is_refused_from_its_sunset_on(now: datetime):
    with pytest.raises(SchemaVersionRefused, match="sunset"):
        _resolve("1.0.0", now=now)


def test_a_deprecated_version_without_a_sunset_is_accepted_indefinitely():
    resolution = _resolve("1.0.1", now=SUNSET + timedelta(days=10_000))
    assert resolution.sunset is None
    assert "sunset" not in resolution.warnings[0].as_json


def test_deprecated_at_defaults_to_the_date_of_the_index():
    assert _resolve("1.0.1").deprecated_at == datetime(2026, 5, 1, tzinfo=UTC)
    assert _resolve("1.0.0").deprecated_at == CATALOGUE.generated_at


def test_reject_deprecated_refuses_deprecated_versions_before_their_sunset():
    with pytest.raises(SchemaVersionRefused, match="deprecated"):
        _resolve("1.0.1", reject_deprecated=True)
    assert _resolve("1.1.0", reject_deprecated=True).schema.version == "1.1.0"


def test_a_draft_is_refused_unless_drafts_are_allowed():
    with pytest.raises(SchemaVersionRefused, match="draft"):
        _resolve("1.2.0-beta.1")
    assert _resolve("1.2.0-beta.1", allow_drafts=True).warnings == ()


def test_a_retired_version_is_refused_even_if_drafts_are_allowed():
    with pytest.raises(SchemaVersionRefused, match="retired"):
        _resolve("0.9.0", allow_drafts=True)


def test_a_deprecated_collection_resolves_until_its_sunset():
    resolution = _resolve(collection="com.example.old", now=SUNSET - MOMENT)
    assert resolution.warnings[0].replaced_by == "com.example.post"
    with pytest.raises(SchemaVersionRefused):
        _resolve(collection="com.example.old", now=SUNSET)


def test_visibility_comes_from_the_catalogue():
    assert CATALOGUE.owner_only == {"com.example.secret"}
    assert CATALOGUE.collection(Nsid("com.example.secret")).visibility == "owner"
    assert CATALOGUE.collection(Nsid(POST)).visibility == "public"
    with pytest.raises(CollectionUnknown):
        CATALOGUE.collection(Nsid("com.example.nothing"))


def test_an_owner_only_collection_stays_so_unless_declared_public():
    before = frozenset(map(Nsid, ["com.example.gone", "com.example.unsaid", "com.example.opened"]))
    index, documents = index_of(
        entry("com.example.unsaid", ["1.0.0"]),
        entry("com.example.opened", ["1.0.0"], visibility="public"),
        entry("com.example.new", ["1.0.0"]),
    )
    catalogue = build_catalogue(index, documents, owner_only=before)
    assert catalogue.owner_only == {"com.example.gone", "com.example.unsaid"}
    assert {collection.name: collection.visibility for collection in catalogue} == {
        "com.example.unsaid": "owner",
        "com.example.opened": "public",
        "com.example.new": "public",
    }
    assert "com.example.gone" not in catalogue
    assert catalogue.public == {"com.example.opened"}


def test_a_collection_restricted_to_owners_is_no_longer_public():
    index, documents = index_of(
        entry("com.example.opened", ["1.0.0"], visibility="public"),
        entry("com.example.open", ["1.0.0"], visibility="public"),
        entry("com.example.new", ["1.0.0"]),
    )
    catalogue = build_catalogue(index, documents).with_owner_only([Nsid("com.example.opened")])
    assert catalogue.owner_only == {"com.example.opened"}
    assert catalogue.public == {"com.example.open"}


def test_a_catalogue_lists_its_collections_and_their_versions():
    assert POST in CATALOGUE
    assert "com.example.nothing" not in CATALOGUE
    assert [each.name for each in CATALOGUE] == sorted(each.name for each in CATALOGUE)
    assert len(CATALOGUE) == 4
    assert list(CATALOGUE.collection(POST).versions) == ["0.9.0", "1.0.0", "1.0.1", "1.1.0", "1.2.0-beta.1"]
