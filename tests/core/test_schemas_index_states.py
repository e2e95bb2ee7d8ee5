"""The lifecycle of a version in an index: status, deprecation time, sunset and replacement."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from cdv_core.domain.catalogue_build import build_catalogue
from cdv_core.domain.catalogue_documents import CatalogueRefused
from cdv_core.domain.catalogue_index import VersionEntry, read_index
from cdv_core.domain.identifiers import Nsid
from tests.core.catalogues import GENERATED_AT, entry, index_bytes, index_of

GENERATED = datetime.fromisoformat(GENERATED_AT)
MARCH, APRIL = "2026-03-01T00:00:00Z", "2026-04-01T00:00:00+00:00"
OF_MARCH, OF_APRIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
NAME = "a.b.post"


def version(number: str, **more: Any) -> dict[str, Any]:
    return {"version": number, **more}


def first(*versions: str | dict[str, Any], **more: Any) -> VersionEntry:
    """Return the oldest version of a collection that lists these."""
    (collection,) = read_index(index_bytes(entry(NAME, versions, **more))).collections
    return collection.versions[0]


def lifecycle(it: VersionEntry) -> tuple[Any, ...]:
    return it.status, it.deprecated_at, it.sunset, it.replaced_by


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ({}, ("stable", None, None, None)),
        ({"status": "draft"}, ("draft", None, None, None)),
        ({"status": "retired"}, ("retired", None, None, None)),
        ({"status": "deprecated"}, ("deprecated", GENERATED, None, None)),
        ({"status": "deprecated", "deprecatedAt": MARCH}, ("deprecated", OF_MARCH, None, None)),
        ({"status": "deprecated", "sunset": APRIL}, ("deprecated", GENERATED, OF_APRIL, None)),
        (
            {"status": "deprecated", "deprecatedAt": MARCH, "sunset": APRIL, "replacedBy": "1.1.0"},
            ("deprecated", OF_MARCH, OF_APRIL, "1.1.0"),
        ),
        ({"replacedBy": "1.1.0"}, ("stable", None, None, "1.1.0")),
    ],
)
def test_a_version_has_the_lifecycle_that_it_declares(declared: dict[str, Any], expected: tuple[Any, ...]):
    assert lifecycle(first(version("1.0.0", **declared), "1.1.0", latest="1.1.0")) == expected


def test_a_version_without_a_lifecycle_inherits_that_of_its_collection():
    whole = {"status": "deprecated", "deprecatedAt": MARCH, "sunset": APRIL, "replacedBy": "1.1.0"}
    assert lifecycle(first("1.0.0", "1.1.0", latest="1.1.0", **whole)) == ("deprecated", OF_MARCH, OF_APRIL, "1.1.0")


def test_a_version_with_a_status_does_not_inherit_the_times_of_its_collection():
    whole = {"status": "deprecated", "deprecatedAt": MARCH, "sunset": APRIL}
    declared = version("1.0.0", status="deprecated")
    assert lifecycle(first(declared, "1.1.0", latest="1.1.0", **whole)) == ("deprecated", GENERATED, None, None)
    # A stable version may not have such times.
    assert lifecycle(first(version("1.0.0", status="stable"), **whole)) == ("stable", None, None, None)


@pytest.mark.parametrize("status", ["draft", "stable", "retired"])
@pytest.mark.parametrize("time", ["sunset", "deprecatedAt"])
def test_only_a_deprecated_version_may_have_deprecated_at_or_sunset(status: str, time: str):
    with pytest.raises(CatalogueRefused) as refused:
        first(version("1.0.0", status=status, **{time: APRIL}), "1.1.0", latest="1.1.0")
    assert str(refused.value) == (f"SPEC_INDEX.json: {NAME} 1.0.0 has a deprecatedAt or a sunset, and is {status}")


def test_a_draft_that_is_deprecated_stays_a_draft():
    declared = version("1.0.0", status="draft")
    assert first(declared, "1.1.0", latest="1.1.0", deprecates="1.0.0").status == "draft"


def test_only_a_collection_of_drafts_may_have_no_latest_stable():
    assert first(version("1.0.0", status="draft"), latest=None).status == "draft"
    for status in ("stable", "retired", "deprecated"):
        with pytest.raises(CatalogueRefused, match="has no latestStable"):
            first(version("1.0.0", status=status), latest=None)


def test_a_single_version_of_another_collection_can_be_deprecated():
    index = read_index(
        index_bytes(
            entry("a.b.old", ["1.0.0", "1.1.0"], latest="1.1.0"),
            entry("a.b.new", ["1.0.0"], deprecates="a.b.old@1.0.0"),
        )
    )
    old = index.collections[0]
    assert [lifecycle(each) for each in old.versions] == [
        ("deprecated", GENERATED, None, "a.b.new"),
        ("stable", None, None, None),
    ]


def test_several_problems_are_listed_separately():
    with pytest.raises(CatalogueRefused) as refused:
        read_index(index_bytes(entry("a.b.one", ["x"]), entry("a.b.two", ["1.0.0", "1.0.0"]), entry("no", ["1.0.0"])))
    assert len(str(refused.value).split("; ")) == len(refused.value.problems) > 2


def test_the_catalogue_keeps_every_field_of_the_index():
    declared = version("1.0.0", status="deprecated", deprecatedAt=MARCH, sunset=APRIL, replacedBy="1.1.0")
    catalogue = build_catalogue(*index_of(entry(NAME, [declared, "1.1.0"], latest="1.1.0", visibility="owner")))
    assert catalogue.generated_at == GENERATED
    collection = catalogue.collection(Nsid(NAME))
    schema = collection.versions["1.0.0"]
    assert (schema.collection, schema.version, schema.status) == (NAME, "1.0.0", "deprecated")
    assert (schema.deprecated_at, schema.sunset, schema.replaced_by) == (OF_MARCH, OF_APRIL, "1.1.0")
    assert (collection.visibility, collection.latest_stable) == ("owner", "1.1.0")
    assert catalogue.owner_only == {NAME}
    resolution = catalogue.resolve(Nsid(NAME), "1.0.0", now=OF_MARCH, allow_drafts=False, reject_deprecated=False)
    (warning,) = resolution.warnings
    assert (warning.collection, warning.schema_version, warning.sunset, warning.replaced_by) == (
        NAME, "1.0.0", OF_APRIL, "1.1.0",
    )  # fmt: skip
