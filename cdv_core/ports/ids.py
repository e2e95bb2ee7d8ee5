"""The source of new ids."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class IdSource(Protocol):
    def new(self, at: datetime) -> str:
        """Return a new ULID that sorts after all earlier ones of this source.

        Its timestamp is `at`, or that of the previous ULID if the clock went back. ULIDs of different sources differ:
        80 bits are random.
        """
        ...
