"""A request's headers, by name."""

from __future__ import annotations

import pytest

from cdv_http.request_headers import RequestHeaders

SEVERAL = RequestHeaders([(b"host", b"a"), (b"accept", b"x"), (b"host", b"b")])
PLAIN = RequestHeaders([(b"host", b"a"), (b"accept", b"")])


def test_every_value_is_given_in_its_order() -> None:
    assert SEVERAL.every(b"host") == [b"a", b"b"]
    assert SEVERAL.every(b"accept") == [b"x"]
    assert PLAIN.every(b"accept") == [b""]
    assert PLAIN.every(b"range") == []


def test_a_header_sent_more_than_once_has_no_only_value() -> None:
    assert SEVERAL.only(b"host") is None
    assert PLAIN.only(b"host") == b"a"
    assert PLAIN.only(b"range") is None


def test_of_several_the_last_is_taken_where_one_is_wanted() -> None:
    assert SEVERAL.last(b"host") == b"b"
    assert PLAIN.last(b"range", b"none") == b"none"
    assert b"host" in SEVERAL
    assert b"range" not in SEVERAL


@pytest.mark.parametrize(
    ("said", "length"),
    [(b"0", 0), (b"12", 12), (b"", -1), (b"-1", -1), (b"1 ", -1), (b"9" * 5000, 10**20 - 1), ("²".encode(), -1)],
)
def test_the_announced_length_is_a_number_that_can_be_one(said: bytes, length: int) -> None:
    assert RequestHeaders([(b"content-length", said)]).content_length() == length
    assert PLAIN.content_length() == -1
