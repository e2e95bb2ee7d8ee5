"""The contract of schema sources: at any time a complete catalogue is available without waiting."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest

from cdv_core.domain.identifiers import Nsid
from cdv_core.domain.schemas import Catalogue, Schema
from cdv_core.errors import CollectionUnknown, SchemaVersionUnknown
from cdv_core.ports.schemas import SchemaSource

NOW = datetime(2026, 11, 24, tzinfo=UTC)

# spec: schema catalogue. A valid record of each collection.
FITTING: dict[str, dict[str, Any]] = {
    "com.registryaccord.profile": {"displayName": "Ada", "bio": "Counts."},
    "com.registryaccord.feed.post": {"text": "", "createdAt": "2026-11-24T02:53:29+01:00", "authorDid": "did:plc:ada"},
    "com.registryaccord.graph.follow": {"subject": "did:web:example.com"},
    "com.registryaccord.feed.like": {
        "subject": "at://did:plc:ada/com.registryaccord.feed.post/01J9ZS8Q5N7G3T4V6W8X9YABCD"
    },
    "com.registryaccord.feed.comment": {"text": "Yes.", "subject": "anything"},
    "com.registryaccord.feed.repost": {"subject": "anything"},
    "com.registryaccord.moderation.flag": {"subject": "anything", "reason": "spam"},
    "com.registryaccord.media.asset": {"mimeType": "image/png", "size": 0, "checksum": "aB" * 32},
}


@dataclass(frozen=True, slots=True)
class Swappable:
    """A source with the bundled catalogue in force. `swap(documents)` makes it load another one.

    The documents, valid or not, replace bundled ones; their keys are collections without `com.registryaccord.`.
    """

    source: SchemaSource
    swap: Callable[[Mapping[str, bytes]], Awaitable[None]]


class SchemaSourceContract:
    """To use it, inherit and provide the fixture `source`: a source with the bundled catalogue in force."""

    def test_the_catalogue_contains_the_collections_of_the_contract(self, source: SchemaSource):
        assert {str(collection.name) for collection in source.catalogue} == FITTING.keys()
        assert source.catalogue.owner_only == {"com.registryaccord.moderation.flag"}

    @pytest.mark.parametrize("collection", sorted(FITTING))
    def test_a_valid_record_is_accepted_with_additional_members(self, source: SchemaSource, collection: str):
        record = FITTING[collection]
        assert _latest(source.catalogue, collection).violations(record) == ()
        assert _latest(source.catalogue, collection).violations({**record, "$type": collection, "x": [{}]}) == ()

    @pytest.mark.parametrize("collection", sorted(FITTING))
    def test_a_missing_required_member_is_reported(self, source: SchemaSource, collection: str):
        optional = {"bio"}
        for name in FITTING[collection].keys() - optional:
            record = {member: value for member, value in FITTING[collection].items() if member != name}
            (violation,) = _latest(source.catalogue, collection).violations(record)
            assert (violation.pointer, violation.rule) == ("", "required")

    @pytest.mark.parametrize(
        ("collection", "member", "most"),
        [
            ("profile", "displayName", 64),
            ("profile", "bio", 256),
            ("feed.post", "text", 2048),
            ("feed.comment", "text", 2048),
            ("moderation.flag", "reason", 256),
        ],
    )
    def test_a_text_over_its_maximum_length_is_reported(
        self, source: SchemaSource, collection: str, member: str, most: int
    ):
        name = f"com.registryaccord.{collection}"
        schema = _latest(source.catalogue, name)
        assert schema.violations({**FITTING[name], member: "é" * most}) == ()
        (violation,) = schema.violations({**FITTING[name], member: "é" * (most + 1)})
        assert (violation.pointer, violation.rule) == (f"/{member}", "maxLength")

    @pytest.mark.parametrize(
        ("collection", "member", "wrong", "rule"),
        [
            ("feed.post", "createdAt", "yesterday", "format"),
            ("feed.post", "createdAt", "2026-11-24T02:53:29", "format"),
            ("feed.post", "authorDid", "ada", "format"),
            ("feed.post", "text", None, "type"),
            ("graph.follow", "subject", "https://example.com", "format"),
            ("feed.like", "subject", "not a URI", "anyOf"),
            ("feed.like", "subject", 5, "type"),
            ("media.asset", "size", -1, "minimum"),
            ("media.asset", "size", 1.5, "type"),
            ("media.asset", "size", True, "type"),
            ("media.asset", "checksum", "a" * 63, "pattern"),
            ("media.asset", "checksum", "g" * 64, "pattern"),
            ("media.asset", "filename", 1, "type"),
        ],
    )
    def test_an_invalid_member_is_reported_with_its_pointer_and_rule(
        self, source: SchemaSource, collection: str, member: str, wrong: object, rule: str
    ):
        name = f"com.registryaccord.{collection}"
        violations = _latest(source.catalogue, name).violations({**FITTING[name], member: wrong})
        assert (f"/{member}", rule) in {(violation.pointer, violation.rule) for violation in violations}

    @pytest.mark.parametrize(
        "subject", ["https://example.com/post", "at://did:plc:ada/a.b.c/x", "urn:isbn:1", "did:plc:ada"]
    )
    def test_the_subject_of_a_like_may_be_any_uri(self, source: SchemaSource, subject: str):
        assert _latest(source.catalogue, "com.registryaccord.feed.like").violations({"subject": subject}) == ()

    def test_an_unknown_collection_or_version_is_an_error(self, source: SchemaSource):
        with pytest.raises(CollectionUnknown):
            _latest(source.catalogue, "com.registryaccord.nothing")
        with pytest.raises(SchemaVersionUnknown):
            source.catalogue.resolve(
                Nsid("com.registryaccord.profile"), "2.0.0", now=NOW, allow_drafts=True, reject_deprecated=False
            )

    def test_restricted_collections_are_owner_only_until_the_restriction_is_replaced(self, source: SchemaSource):
        gone, post = Nsid("com.example.gone"), Nsid("com.registryaccord.feed.post")
        before = source.catalogue
        source.restrict_to_owners(frozenset({gone, post}))
        assert source.catalogue.owner_only == before.owner_only | {gone, post}
        assert gone not in source.catalogue
        assert {collection.name for collection in source.catalogue} == {collection.name for collection in before}
        assert post not in before.owner_only  # a request in flight may still use the earlier catalogue
        source.restrict_to_owners(frozenset({gone}))
        assert source.catalogue.owner_only == before.owner_only | {gone}
        source.restrict_to_owners(frozenset())
        assert source.catalogue.owner_only == before.owner_only

    @pytest.fixture
    def swappable(self) -> Swappable | None:
        """A separate source whose catalogue can be replaced; override it if the adapter has one."""
        return None

    async def test_a_catalogue_is_replaced_completely_or_not_at_all(self, swappable: Swappable | None):
        if swappable is None:
            pytest.skip("the catalogue of this source never changes")
        source, before = swappable.source, swappable.source.catalogue
        longer = {name: _longer(name) for name in ("profile", "feed.comment")}

        await swappable.swap({**longer, "feed.post": b"{"})
        assert [_longest_name(source.catalogue), _longest_text(source.catalogue)] == [64, 2048]

        await swappable.swap(longer)
        assert [_longest_name(source.catalogue), _longest_text(source.catalogue)] == [65, 2049]
        # A catalogue that was obtained before does not change.
        assert [_longest_name(before), _longest_text(before)] == [64, 2048]


def _longer(name: str) -> bytes:
    """Return the bundled document of a collection, with a maxLength raised by one."""
    document = files("cdv_core.catalogue").joinpath(f"com.registryaccord.{name}", "1.0.0.json").read_text("utf-8")
    return (
        document.replace('"maxLength": 64', '"maxLength": 65')
        .replace('"maxLength": 2048', '"maxLength": 2049')
        .encode()
    )


def _longest_name(catalogue: Catalogue) -> int:
    return _longest(catalogue, "com.registryaccord.profile", "displayName", 64)


def _longest_text(catalogue: Catalogue) -> int:
    return _longest(catalogue, "com.registryaccord.feed.comment", "text", 2048)


def _longest(catalogue: Catalogue, name: str, member: str, least: int) -> int:
    """Return the greatest accepted length of a member: `least` or one more."""
    schema = _latest(catalogue, name)
    accepted = [it for it in (least, least + 1) if not schema.violations({**FITTING[name], member: "x" * it})]
    return max(accepted)


def _latest(catalogue: Catalogue, collection: str) -> Schema:
    resolution = catalogue.resolve(Nsid(collection), None, now=NOW, allow_drafts=False, reject_deprecated=True)
    assert resolution.warnings == ()
    return resolution.schema
