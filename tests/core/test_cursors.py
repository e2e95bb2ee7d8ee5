"""A cursor has exactly one encoding; any other text is refused."""

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdv_core.domain.cursors import Cursor
from cdv_core.errors import CursorInvalid

MOMENTS = st.datetimes(timezones=st.just(UTC))
ULIDS = st.from_regex(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", fullmatch=True)
GOOD = Cursor(datetime(2026, 11, 24, 2, 53, 29, 331656, UTC), "01KAV3XG8J0000000000000000")


def base64url(json_text: str) -> str:
    return base64.urlsafe_b64encode(json_text.encode()).decode().rstrip("=")


@given(MOMENTS, ULIDS)
def test_an_encoded_cursor_decodes_to_the_same_cursor(moment, rkey):
    cursor = Cursor(moment, rkey)
    assert Cursor.decode(cursor.encode()) == cursor


def test_the_encoded_form_matches_the_contract():
    wire = base64.urlsafe_b64decode(GOOD.encode() + "==")
    assert wire == b'{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":"01KAV3XG8J0000000000000000"}'


@given(st.data())
def test_a_cursor_with_one_changed_character_is_refused_or_another_cursor(data):
    good = GOOD.encode()
    at = data.draw(st.integers(0, len(good) - 1))
    other = data.draw(st.characters().filter(lambda character: character != good[at]))
    text = good[:at] + other + good[at + 1 :]
    try:
        decoded = Cursor.decode(text)
    except CursorInvalid:
        return
    assert decoded != GOOD
    assert decoded.encode() == text


@given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_arbitrary_text_is_refused(text):
    with pytest.raises(CursorInvalid):
        Cursor.decode(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD.encode() + "=",
        GOOD.encode() + "==",
        " " + GOOD.encode(),
        GOOD.encode() + "\n",
        GOOD.encode() + "é",
        base64url('{"lastIndexedAt": "2026-11-24T02:53:29.331656Z","lastRkey":"01KAV3XG8J0000000000000000"}'),
        base64url('{"lastRkey":"01KAV3XG8J0000000000000000","lastIndexedAt":"2026-11-24T02:53:29.331656Z"}'),
        base64url('{"lastIndexedAt":"2026-11-24T02:53:29.331656+00:00","lastRkey":"01KAV3XG8J0000000000000000"}'),
        base64url('{"lastIndexedAt":"2026-11-24T02:53:29Z","lastRkey":"01KAV3XG8J0000000000000000"}'),
        base64url('{"lastIndexedAt":"2026-13-24T02:53:29.331656Z","lastRkey":"01KAV3XG8J0000000000000000"}'),
        base64url('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":"01kav3xg8j0000000000000000"}'),
        base64url('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":"81KAV3XG8J0000000000000000"}'),
        base64url('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":"x"}'),
        base64url('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":1}'),
        base64url('{"lastIndexedAt":1,"lastRkey":"01KAV3XG8J0000000000000000"}'),
        base64url('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z"}'),
        base64url('{"lastRkey":"01KAV3XG8J0000000000000000"}'),
        base64url('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":"01KAV3XG8J0000000000000000","x":1}'),
        base64url("[]"),
        base64url("null"),
        base64url("[" * 5000),
    ],
)
def test_noncanonical_and_malformed_cursors_are_refused(text):
    with pytest.raises(CursorInvalid, match="start again without a cursor"):
        Cursor.decode(text)


def test_the_utc_offset_of_a_time_does_not_change_the_encoding():
    moved = GOOD.indexed_at.astimezone(timezone(timedelta(hours=5)))
    assert Cursor(moved, GOOD.rkey).encode() == GOOD.encode()


@pytest.mark.parametrize("text", ["!", GOOD.encode()[:-1] + "A"])
def test_the_error_message_advises_to_start_without_a_cursor(text):
    with pytest.raises(CursorInvalid) as caught:
        Cursor.decode(text)
    assert str(caught.value) == "the cursor is not valid (not a cursor of this vault); start again without a cursor"
