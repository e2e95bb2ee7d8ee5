"""A request's headers, by name."""

from __future__ import annotations

from cdv_http.request_headers import RequestHeaders

SEVERAL = RequestHeaders([(b"host", b"a"), (b"accept", b"x"), (b"host", b"b")])
PLAIN = RequestHeaders([(b"host", b"a"), (b"accept", b"")])


def test_every_value_is_given_in_its_order() -> None:
    assert SEVERAL.every(b"host") == [b"a", b"b"]
    assert SEVERAL.every(b"accept") == [b"x"]
    assert PLAIN.every(b"accept") == [b""]
    assert PLAIN.every(b"range") == []


def test_one_of_several_is_no_only_one() -> None:
    assert SEVERAL.only(b"host") is None
    assert PLAIN.only(b"host") == b"a"
    assert PLAIN.only(b"range") is None


def test_of_several_the_last_is_taken_where_one_is_wanted() -> None:
    assert SEVERAL.last(b"host") == b"b"
    assert PLAIN.last(b"range", b"none") == b"none"
    assert b"host" in SEVERAL
    assert b"range" not in SEVERAL
