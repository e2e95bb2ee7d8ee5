"""Our id sources against the contract."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from cdv_adapters.ids.ulid import UlidSource
from conformance.ports.ids import IdSourceContract, moment_of, to_the_millisecond
from conformance.ports.stores import START
from tests.fakes.ids import FakeIdSource


class TestFakeIds(IdSourceContract):
    @pytest.fixture
    def ids(self) -> FakeIdSource:
        return FakeIdSource()

    @pytest.fixture
    def other_ids(self) -> FakeIdSource:
        return FakeIdSource(first=1_000_000)


class TestUlids(IdSourceContract):
    @pytest.fixture
    def ids(self) -> UlidSource:
        return UlidSource()

    @pytest.fixture
    def other_ids(self) -> UlidSource:
        return UlidSource()

    def test_a_random_part_that_overflows_advances_to_the_next_millisecond(self):
        ids = UlidSource(randomness=lambda _: b"\xff" * 9 + b"\xfe")

        given = [ids.new(START) for _ in range(5)]

        assert given == sorted(set(given))
        millis = [round((moment_of(ulid) - to_the_millisecond(START)).total_seconds() * 1000) for ulid in given]
        assert millis == [0, 0, 1, 1, 2]

    def test_concurrent_threads_receive_unique_and_increasing_ids(self, ids: UlidSource):
        with ThreadPoolExecutor(4) as threads:
            given = list(threads.map(lambda _: [ids.new(START) for _ in range(500)], range(8)))

        assert len({ulid for some in given for ulid in some}) == 4000
        assert all(some == sorted(some) for some in given)
