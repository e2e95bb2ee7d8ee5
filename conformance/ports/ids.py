"""The contract of id sources."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdv_core.domain.identifiers import is_ulid
from cdv_core.ports.ids import IdSource
from conformance.ports.stores import START

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment_of(ulid: str) -> datetime:
    """Return the time in a ULID, which has a precision of one millisecond."""
    millis = 0
    for character in ulid[:10]:
        millis = millis * 32 + _CROCKFORD.index(character)
    return _EPOCH + timedelta(milliseconds=millis)


def to_the_millisecond(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


class IdSourceContract:
    """To use it, inherit and provide the fixtures `ids` and `other_ids`: two independent sources."""

    @settings(
        deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
    )
    @given(steps=st.lists(st.integers(-3_000, 5_000), min_size=1, max_size=30))
    def test_ids_increase_whatever_the_clock_does(self, ids: IdSource, steps: list[int]):
        # The source is shared by all examples, so this one starts from the last id issued.
        last = ids.new(START)
        now = START
        for micros in steps:
            now += timedelta(microseconds=micros)

            new = ids.new(now)

            assert is_ulid(new)
            assert new > last
            assert moment_of(new) == max(to_the_millisecond(now), moment_of(last))
            last = new

    def test_an_id_contains_its_time_to_the_millisecond(self, ids: IdSource):
        for moment in (_EPOCH, START, datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)):
            assert moment_of(ids.new(moment)) == to_the_millisecond(moment)

    def test_independent_sources_return_different_ids(self, ids: IdSource, other_ids: IdSource):
        assert not {ids.new(START) for _ in range(500)} & {other_ids.new(START) for _ in range(500)}
