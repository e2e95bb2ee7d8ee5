"""A clock that stands still until it is advanced."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class FakeClock:
    def __init__(self, moment: datetime = datetime(2026, 11, 24, 2, 53, 29, 331656, tzinfo=UTC)) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def advance(self, seconds: float) -> None:
        """Move forward, or back if negative."""
        self.moment += timedelta(seconds=seconds)
