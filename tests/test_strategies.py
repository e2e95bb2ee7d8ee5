"""The Hypothesis strategies generate only values that are valid by the contract."""

from datetime import UTC, datetime

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdv_adapters.schemas.bundled import bundled_catalogue
from cdv_core.domain.canonical import canonical_record
from cdv_core.domain.identifiers import Did, Nsid, is_ulid
from conformance.strategies import COLLECTIONS, DIDS, JSON_OBJECTS, NSIDS, ULIDS, records_of

CATALOGUE = bundled_catalogue()
NOW = datetime(2026, 11, 24, tzinfo=UTC)
DRAWN = st.tuples(st.sampled_from(COLLECTIONS), DIDS).flatmap(
    lambda drawn: st.tuples(st.just(drawn[0]), records_of(*drawn))
)


def test_there_are_records_of_every_bundled_collection():
    assert set(COLLECTIONS) == {collection.name for collection in CATALOGUE}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(DRAWN)
def test_records_satisfy_their_schema(drawn):
    collection, record = drawn
    resolution = CATALOGUE.resolve(Nsid(collection), None, now=NOW, allow_drafts=False, reject_deprecated=True)

    assert resolution.schema.violations(canonical_record(record).value) == ()


@settings(deadline=None)
@given(DIDS, NSIDS, ULIDS, JSON_OBJECTS)
def test_names_and_objects_are_valid(did, nsid, ulid, value):
    assert Did.parse(did) == did
    assert Nsid.parse(nsid) == nsid
    assert is_ulid(ulid)
    canonical_record(value)
