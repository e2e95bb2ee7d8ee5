"""A cursor has one spelling; everything else is refused."""

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


def spelt(json_text: str) -> str:
    return base64.urlsafe_b64encode(json_text.encode()).decode().rstrip("=")


@given(MOMENTS, ULIDS)
def test_decoding_gives_back_what_was_encoded(moment, rkey):
    cursor = Cursor(moment, rkey)
    assert Cursor.decode(cursor.encode()) == cursor


def test_the_wire_form_is_the_contracts():
    wire = base64.urlsafe_b64decode(GOOD.encode() + "==")
    assert wire == b'{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":"01KAV3XG8J0000000000000000"}'


@given(st.data())
def test_no_other_text_decodes(data):
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
def test_text_that_is_no_cursor_is_refused(text):
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
        spelt('{"lastIndexedAt": "2026-11-24T02:53:29.331656Z","lastRkey":"01KAV3XG8J0000000000000000"}'),
        spelt('{"lastRkey":"01KAV3XG8J0000000000000000","lastIndexedAt":"2026-11-24T02:53:29.331656Z"}'),
        spelt('{"lastIndexedAt":"2026-11-24T02:53:29.331656+00:00","lastRkey":"01KAV3XG8J0000000000000000"}'),
        spelt('{"lastIndexedAt":"2026-11-24T02:53:29Z","lastRkey":"01KAV3XG8J0000000000000000"}'),
        spelt('{"lastIndexedAt":"2026-13-24T02:53:29.331656Z","lastRkey":"01KAV3XG8J0000000000000000"}'),
        spelt('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":"01kav3xg8j0000000000000000"}'),
        spelt('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":"81KAV3XG8J0000000000000000"}'),
        spelt('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":"x"}'),
        spelt('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":1}'),
        spelt('{"lastIndexedAt":1,"lastRkey":"01KAV3XG8J0000000000000000"}'),
        spelt('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z"}'),
        spelt('{"lastRkey":"01KAV3XG8J0000000000000000"}'),
        spelt('{"lastIndexedAt":"2026-11-24T02:53:29.331656Z","lastRkey":"01KAV3XG8J0000000000000000","x":1}'),
        spelt("[]"),
        spelt("null"),
        spelt("[" * 5000),
    ],
)
def test_other_spellings_and_other_things_are_refused(text):
    with pytest.raises(CursorInvalid, match="start again without a cursor"):
        Cursor.decode(text)


def test_another_offset_is_encoded_as_the_same_moment():
    moved = GOOD.indexed_at.astimezone(timezone(timedelta(hours=5)))
    assert Cursor(moved, GOOD.rkey).encode() == GOOD.encode()


@pytest.mark.parametrize("text", ["!", GOOD.encode()[:-1] + "A"])
def test_a_refusal_says_to_start_again(text):
    with pytest.raises(CursorInvalid) as caught:
        Cursor.decode(text)
    assert str(caught.value) == "the cursor is not valid (not a cursor of this vault); start again without a cursor"
