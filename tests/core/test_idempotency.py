"""Request fingerprints, which decide whether two requests are the same, and idempotency keys."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdv_core.domain.canonical import canonical_record
from cdv_core.domain.idempotency import IdempotencyKey, request_fingerprint
from cdv_core.errors import InvalidField

BASE: dict[str, Any] = {
    "collection": "com.example.post",
    "cid": canonical_record({"a": 1, "b": [2]}).cid,
    "created_at": datetime(2026, 11, 24, 2, 53, 29, 331656, UTC),
    "schema_version": "1.0.0",
}


def test_the_fingerprint_is_32_bytes_and_the_same_for_the_same_request():
    assert len(request_fingerprint(**BASE)) == 32
    assert request_fingerprint(**BASE) == request_fingerprint(**dict(BASE))


def test_member_order_and_number_notation_do_not_change_the_fingerprint():
    assert request_fingerprint(**BASE | {"cid": canonical_record({"b": [2.0], "a": 1.0}).cid}) == request_fingerprint(
        **BASE
    )


def test_the_utc_offset_of_created_at_does_not_change_the_fingerprint():
    moved = BASE["created_at"].astimezone(timezone(timedelta(hours=-3)))
    assert request_fingerprint(**BASE | {"created_at": moved}) == request_fingerprint(**BASE)


@pytest.mark.parametrize(
    "other",
    [
        {"collection": "com.example.pose"},
        {"cid": canonical_record({"a": 1, "b": [3]}).cid},
        {"created_at": None},
        {"created_at": datetime(2026, 11, 24, 2, 53, 29, 331657, UTC)},
        {"schema_version": None},
        {"schema_version": "1.0.1"},
    ],
)
def test_a_request_that_differs_in_any_part_has_another_fingerprint(other):
    assert request_fingerprint(**BASE | other) != request_fingerprint(**BASE)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255))
def test_a_key_of_visible_ascii_is_accepted(text):
    assert IdempotencyKey.parse(text) == text


@pytest.mark.parametrize("text", ["", " ", "a b", "a\n", "\x7f", "é", "a\x00", "a" * 256])
def test_an_invalid_key_is_refused(text):
    with pytest.raises(InvalidField, match="must be 1 to 255 visible ASCII characters") as caught:
        IdempotencyKey.parse(text)
    assert caught.value.field == "idempotencyKey"


def test_a_key_of_maximum_length_is_accepted():
    assert IdempotencyKey.parse("k" * 255) == "k" * 255
