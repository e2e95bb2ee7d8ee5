"""A request's headers, by name."""

from __future__ import annotations

import pytest

from cdv_http.request_headers import RequestHeaders

SEVERAL = RequestHeaders([(b"host", b"a"), (b"accept", b"x"), (b"host", b"b")])
PLAIN = RequestHeaders([(b"host", b"a"), (b"accept", b"")])


def test_every_returns_all_values_in_order() -> None:
    assert SEVERAL.every(b"host") == [b"a", b"b"]
    assert SEVERAL.every(b"accept") == [b"x"]
    assert PLAIN.every(b"accept") == [b""]
    assert PLAIN.every(b"range") == []


def test_only_returns_none_for_a_header_sent_more_than_once() -> None:
    assert SEVERAL.only(b"host") is None
    assert PLAIN.only(b"host") == b"a"
    assert PLAIN.only(b"range") is None


def test_last_returns_the_last_of_several_values() -> None:
    assert SEVERAL.last(b"host") == b"b"
    assert PLAIN.last(b"range", b"none") == b"none"
    assert b"host" in SEVERAL
    assert b"range" not in SEVERAL


@pytest.mark.parametrize(
    ("value", "length"),
    [(b"0", 0), (b"12", 12), (b"", -1), (b"-1", -1), (b"1 ", -1), (b"9" * 5000, 10**20 - 1), ("²".encode(), -1)],
)
def test_content_length_is_parsed_strictly_and_capped(value: bytes, length: int) -> None:
    assert RequestHeaders([(b"content-length", value)]).content_length() == length
    assert PLAIN.content_length() == -1
