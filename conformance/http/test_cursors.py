"""Tests of cursors: their content, and that nothing else is accepted as a cursor."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from conformance.http.fixtures import RECORDS
from conformance.http.profiles import for_all
from conformance.http.requirements import clause, judges
from conformance.http.test_listing import position
from conformance.http.vault import Creator, data, expect_error


@judges("LIST-016")
@for_all(cost=2, limit=st.integers(1, RECORDS - 1))
def test_a_cursor_names_the_last_record(writer: Creator, limit: int):
    page = data(writer.listing(limit=limit))
    indexed_at, rkey = position(page["records"][-1])

    assert _decoded(page["nextCursor"]) == {"lastIndexedAt": indexed_at, "lastRkey": rkey}


_RKEY, _TIME = "01ARZ3NDEKTSV4RRFFQ69G5FAV", "2026-11-24T02:53:29.331656Z"
_INVALID_CURSORS: list[Any] = [
    *({}, [], None, 1, "x", {"lastIndexedAt": _TIME}, {"lastRkey": _RKEY}, [_TIME, _RKEY]),
    *(
        {"lastIndexedAt": 1, "lastRkey": _RKEY},
        {"lastIndexedAt": _TIME, "lastRkey": 1},
        {"lastIndexedAt": _TIME, "lastRkey": None},
    ),
    *({"lastIndexedAt": "2026-13-24T02:53:29.331656Z", "lastRkey": _RKEY}, {"lastIndexedAt": "", "lastRkey": _RKEY}),
    *(
        {"lastIndexedAt": "2026-11-24T02:53:29.331656", "lastRkey": _RKEY},
        {"lastIndexedAt": "yesterday", "lastRkey": _RKEY},
    ),
    {"lastIndexedAt": _TIME, "lastRkey": _RKEY, "extra": 1},
]


@judges("LIST-017", "LIST-019")
@for_all(
    cursor=st.sampled_from(["", "!", "null", "0", "a", "====", "\u00e9", "bm90IGpzb24", "e30", "%00"])
    | st.sampled_from(
        [
            base64.urlsafe_b64encode(json.dumps(it, separators=(",", ":")).encode()).decode().rstrip("=")
            for it in _INVALID_CURSORS
        ]
    )
    | st.binary(max_size=40).map(lambda content: base64.urlsafe_b64encode(content).decode().rstrip("="))
)
def test_an_invalid_cursor_is_refused(writer: Creator, cursor: str):
    response = writer.listing(cursor=cursor)

    with clause("LIST-017"):
        error = expect_error(response, 400, "CDV_CURSOR_INVALID")
    with clause("LIST-019"):
        assert "cursor" in str(error.get("message", "")).lower()
        assert any(word in error["message"].lower() for word in ("without", "start", "again", "restart", "first"))


_OTHER_ENCODINGS: dict[str, Callable[[str], str]] = {
    "padded, or with too much padding": lambda it: it + ("=" * (-len(it) % 4) or "===="),
    "followed by a line break": lambda it: it + "\n",
    "after a space": lambda it: f" {it}",
    "with a character that is not in the alphabet": lambda it: f"{it[:4]}!{it[4:]}",
    "with spaces in its JSON": lambda it: _encoded(json.dumps(_decoded(it))),
    "with its members in another order": lambda it: _encoded(_compact(dict(reversed(_decoded(it).items())))),
    "with another member": lambda it: _encoded(_compact({**_decoded(it), "x": 1})),
    "with a member twice": lambda it: _encoded(
        _compact(_decoded(it))[:-1] + f',"lastRkey":"{_decoded(it)["lastRkey"]}"}}'
    ),
    "with +00:00 instead of Z": lambda it: _retimed(it, lambda time: time.replace("Z", "+00:00")),
    "with more digits in its time": lambda it: _retimed(it, lambda time: time.replace("Z", "0Z")),
    "with an escape in its JSON": lambda it: _encoded(_compact(_decoded(it)).replace("lastRkey", "last\\u0052key")),
    "encoded twice": lambda it: _encoded(it),
    "truncated": lambda it: it[:-3],
    "with stray trailing bits": lambda it: _with_stray_bits(it),
}


@judges("LIST-018")
@for_all(encoding=st.sampled_from([*_OTHER_ENCODINGS]), limit=st.integers(1, 5))
def test_a_cursor_has_one_encoding(writer: Creator, encoding: str, limit: int):
    cursor = data(writer.listing(limit=limit))["nextCursor"]
    other = _OTHER_ENCODINGS[encoding](cursor)
    if other == cursor:
        return  # this encoding happens to be the same text

    expect_error(writer.listing(limit=limit, cursor=other), 400, "CDV_CURSOR_INVALID")


def _decoded(cursor: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _retimed(cursor: str, change: Callable[[str], str]) -> str:
    found = _decoded(cursor)
    return _encoded(_compact({**found, "lastIndexedAt": change(found["lastIndexedAt"])}))


def _with_stray_bits(cursor: str) -> str:
    """Return the cursor with another last character that decodes to the same bytes, if there is one."""
    if len(cursor) % 4 == 0:
        return cursor
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return cursor[:-1] + alphabet[alphabet.index(cursor[-1]) ^ 1]
