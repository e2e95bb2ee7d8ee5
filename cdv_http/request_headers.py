"""A request's headers, looked up once and not once for each who asks."""

from __future__ import annotations

from collections.abc import Iterable


class RequestHeaders:
    """Headers by name, in lower case, in the bytes that the client sent."""

    __slots__ = ("_by_name", "_pairs")

    def __init__(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        self._pairs = list(pairs)
        self._by_name = dict(self._pairs)

    def __contains__(self, name: bytes) -> bool:
        return name in self._by_name

    def every(self, name: bytes) -> list[bytes]:
        """Return the values of all headers of that name, in their order; [] if there is none."""
        if name not in self._by_name:
            return []
        if len(self._by_name) == len(self._pairs):  # no name comes twice, as is usual
            return [self._by_name[name]]
        return [value for each, value in self._pairs if each == name]

    def only(self, name: bytes) -> bytes | None:
        """Return the one header's value; None if there is none, or several."""
        values = self.every(name)
        return values[0] if len(values) == 1 else None

    def last(self, name: bytes, default: bytes = b"") -> bytes:
        """Return the value of the last header of that name."""
        return self._by_name.get(name, default)

    def content_length(self) -> int:
        """Return how many bytes of body are announced, of a number its first 20 digits; -1 if it is no number."""
        said = self.last(b"content-length")
        return int(said[:20]) if said.isdigit() else -1
