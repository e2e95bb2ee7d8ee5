"""The contract of clocks."""

from __future__ import annotations

from datetime import datetime, timedelta

from cdv_core.ports.clock import Clock


class ClockContract:
    """To use it, inherit and provide the fixture `clock`."""

    def test_now_is_timezone_aware_and_in_utc(self, clock: Clock):
        now = clock.now()

        assert isinstance(now, datetime)
        assert now.utcoffset() == timedelta(0)
