"""Which version applies, and whether it may be written against: on the day before its sunset and on the day."""

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


def test_a_named_version_is_the_one_that_applies():
    assert _resolve("1.0.1").schema.version == "1.0.1"


def test_an_unknown_collection_is_named():
    with pytest.raises(CollectionUnknown) as refused:
        _resolve(collection="com.example.nothing")
    assert refused.value.collection == "com.example.nothing"


@pytest.mark.parametrize("version", ["2.0.0", "1.1", "latest", "01.1.0"])
def test_an_unknown_version_is_named(version: str):
    with pytest.raises(SchemaVersionUnknown) as refused:
        _resolve(version)
    assert (refused.value.collection, refused.value.version) == (POST, version)


def test_a_collection_of_drafts_has_no_version_to_fall_back_on():
    with pytest.raises(SchemaVersionUnknown, match=r"com\.example\.new has no stable version yet; name one"):
        _resolve(collection="com.example.new", allow_drafts=True)


def test_a_deprecated_version_is_accepted_with_a_warning_until_the_very_moment_of_its_sunset():
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
def test_from_its_sunset_on_a_deprecated_version_is_refused(now: datetime):
    with pytest.raises(SchemaVersionRefused, match="sunset"):
        _resolve("1.0.0", now=now)


def test_without_a_sunset_a_deprecated_version_is_accepted_for_ever():
    resolution = _resolve("1.0.1", now=SUNSET + timedelta(days=10_000))
    assert resolution.sunset is None
    assert "sunset" not in resolution.warnings[0].as_json


def test_the_index_says_since_when_a_version_is_deprecated_and_otherwise_its_own_date_does():
    assert _resolve("1.0.1").deprecated_at == datetime(2026, 5, 1, tzinfo=UTC)
    assert _resolve("1.0.0").deprecated_at == CATALOGUE.generated_at


def test_a_vault_may_refuse_deprecated_versions_before_their_sunset():
    with pytest.raises(SchemaVersionRefused, match="deprecated"):
        _resolve("1.0.1", reject_deprecated=True)
    assert _resolve("1.1.0", reject_deprecated=True).schema.version == "1.1.0"


def test_drafts_are_for_development():
    with pytest.raises(SchemaVersionRefused, match="draft"):
        _resolve("1.2.0-beta.1")
    assert _resolve("1.2.0-beta.1", allow_drafts=True).warnings == ()


def test_a_retired_version_is_refused_everywhere():
    with pytest.raises(SchemaVersionRefused, match="retired"):
        _resolve("0.9.0", allow_drafts=True)


def test_a_collection_deprecated_as_a_whole_still_resolves_until_its_sunset():
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


def test_what_was_its_owners_only_stays_so_unless_it_is_said_to_be_public():
    before = frozenset(map(Nsid, ["com.example.gone", "com.example.unsaid", "com.example.opened"]))
    index, documents = index_of(
        entry("com.example.unsaid", ["1.0.0"]),
        entry("com.example.opened", ["1.0.0"], visibility="public"),
        entry("com.example.new", ["1.0.0"]),
    )
    catalogue = build_catalogue(index, documents, owner_only=before)
    assert catalogue.owner_only == {"com.example.gone", "com.example.unsaid"}
    assert {it.name: it.visibility for it in catalogue} == {
        "com.example.unsaid": "owner",
        "com.example.opened": "public",
        "com.example.new": "public",
    }
    assert "com.example.gone" not in catalogue
    assert catalogue.public == {"com.example.opened"}


def test_what_is_kept_to_its_owners_is_public_no_more():
    index, documents = index_of(
        entry("com.example.opened", ["1.0.0"], visibility="public"),
        entry("com.example.open", ["1.0.0"], visibility="public"),
        entry("com.example.new", ["1.0.0"]),
    )
    catalogue = build_catalogue(index, documents).with_owner_only([Nsid("com.example.opened")])
    assert catalogue.owner_only == {"com.example.opened"}
    assert catalogue.public == {"com.example.open"}


def test_a_catalogue_knows_its_collections():
    assert POST in CATALOGUE
    assert "com.example.nothing" not in CATALOGUE
    assert [it.name for it in CATALOGUE] == sorted(it.name for it in CATALOGUE)
    assert len(CATALOGUE) == 4
    assert list(CATALOGUE.collection(POST).versions) == ["0.9.0", "1.0.0", "1.0.1", "1.1.0", "1.2.0-beta.1"]
