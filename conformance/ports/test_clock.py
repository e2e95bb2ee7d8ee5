"""Our clocks against the contract."""

import time

import pytest

from cdv_adapters.clock.system import SystemClock
from conformance.ports.clock import ClockContract
from tests.fakes.clock import FakeClock


class TestFakeClock(ClockContract):
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()


class TestSystemClock(ClockContract):
    @pytest.fixture
    def clock(self) -> SystemClock:
        return SystemClock()

    def test_now_is_the_system_time(self, clock: SystemClock):
        before = time.time()
        now = clock.now().timestamp()

        assert before - 0.001 <= now <= time.time() + 0.001
