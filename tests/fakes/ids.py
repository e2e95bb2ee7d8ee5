"""ULIDs with a counter instead of random bits, so that tests can predict them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cdv_core.ports.ids import IdSource

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FakeIdSource(IdSource):
    """`given`: every id so far. Two fakes with different `first` numbers never return the same id."""

    def __init__(self, first: int = 1) -> None:
        self.given: list[str] = []
        self._next = first
        self._millis = 0

    def new(self, at: datetime) -> str:
        self._millis = max(self._millis, (at - _EPOCH) // timedelta(milliseconds=1))
        self.given.append(_base32(self._millis, 10) + _base32(self._next, 16))
        self._next += 1
        return self.given[-1]


def _base32(number: int, digits: int) -> str:
    return "".join(_CROCKFORD[number >> 5 * digit & 31] for digit in reversed(range(digits)))
