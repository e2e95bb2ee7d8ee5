"""New names for new things."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class IdSource(Protocol):
    def new(self, at: datetime) -> str:
        """Return a fresh ULID that sorts after every other that this source has given.

        Its time is `at`, or that of the last one given when the clock has stepped back. Two sources never give the
        same: 80 bits are random.
        """
        ...
