"""Hypothesis strategies: DIDs and other identifiers, hostile text, extreme numbers, and records of bundled collections.

They yield plain JSON values and strings, so that the black-box suite can use them as well. Every value is valid by the
contract: a vault must accept it and return it unchanged.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1  # spec: domain, CID
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

DIDS: SearchStrategy[str] = st.one_of(
    st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=24, max_size=24).map("did:plc:{}".format),
    st.text(_BASE58, min_size=40, max_size=48).map("did:key:z{}".format),
    st.from_regex(
        r"did:web:[a-z0-9-]{1,20}(\.[a-z]{2,6}){1,2}(%3A[0-9]{2,4})?(:[a-z0-9._-]{1,10}){0,2}", fullmatch=True
    ),
    st.from_regex(
        r"did:[a-z0-9]{1,8}:([A-Za-z0-9._-]{0,4}:){0,3}([A-Za-z0-9._-]|%[0-9A-Fa-f]{2}){1,12}", fullmatch=True
    ),
    st.just("did:example:" + "x" * (2048 - len("did:example:"))),  # the longest DID allowed
)

NSIDS: SearchStrategy[str] = st.from_regex(
    r"[a-z][a-z0-9]{1,6}(\.[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?){1,3}\.[a-zA-Z][a-zA-Z0-9]{0,8}", fullmatch=True
)

ULIDS: SearchStrategy[str] = st.from_regex(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", fullmatch=True)

# Strings known to break parsers, renderers, encoders, file systems and queries.
_HOSTILE = (
    "",
    " ",
    "\x01\x1f\x7f\x85",
    "\r\n\t\v\f",
    "\u2028\u2029",
    "\ufeff\ufffe\uffff",
    "\U0010ffff",
    "e\u0301 and \u00e9: equal to the eye, not to the byte",
    "\u202etxt.exe",
    "\u200b\u200d\u2060",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\u0622\u0632\u0645\u0627\u06cc\u0634",
    "\ud7ff\ue000",
    "'; DROP TABLE records; --",
    '{"a": 1} <script>alert(1)</script> ${7*7} {{7*7}} %s %00',
    "../../etc/passwd\\..\\",
    "null",
    "NaN",
    "1e400",
    "\\u0000 \\ud800",
    '"\\"',
    "$ref",
    "__proto__",
)
TEXTS: SearchStrategy[str] = st.one_of(
    st.sampled_from(_HOSTILE),
    st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40),
)

NUMBERS: SearchStrategy[int | float] = st.one_of(
    st.integers(_INT64_MIN, _INT64_MAX),
    st.sampled_from([_INT64_MIN, _INT64_MAX, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) - 1, 0, -1]),
    st.sampled_from([0.0, -0.0, 1.0, 1e15, 9007199254740992.0, -9.223372036854775e18]),
    st.sampled_from([0.1, 1 / 3, 1e-7, 5e-324, 2.2250738585072014e-308, 4503599627370495.5, -1.5e-300]),
    st.floats(allow_nan=False, allow_infinity=False).filter(
        lambda number: not number.is_integer() or _INT64_MIN <= number <= _INT64_MAX - 1023
    ),
)

JSON_VALUES: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)
JSON_OBJECTS: SearchStrategy[dict[str, Any]] = st.dictionaries(TEXTS, JSON_VALUES, max_size=6)

_TIMES = st.from_regex(
    r"20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]{1,6})?(Z|[+-](0[0-9]|1[0-3]):[0-5][0-9])",
    fullmatch=True,
)
_RECORD_URIS = st.builds("at://{}/com.registryaccord.feed.post/{}".format, DIDS, ULIDS)
_SUBJECTS = _RECORD_URIS | st.sampled_from(["https://example.com/a?b=c#d", "urn:isbn:0451450523"])
_SHA256 = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)


def _at_most(characters: int) -> SearchStrategy[str]:
    return TEXTS.filter(lambda text: len(text) <= characters) | st.sampled_from(
        ["x" * characters, "\u00fc" * characters]
    )


# Required and optional members of each bundled collection's schema (spec: schema catalogue).
_MEMBERS: dict[str, tuple[dict[str, SearchStrategy[Any]], dict[str, SearchStrategy[Any]]]] = {
    "com.registryaccord.profile": ({"displayName": _at_most(64)}, {"bio": _at_most(256)}),
    "com.registryaccord.feed.post": ({"text": _at_most(2048), "createdAt": _TIMES}, {}),
    "com.registryaccord.graph.follow": ({"subject": DIDS}, {}),
    "com.registryaccord.feed.like": ({"subject": _SUBJECTS}, {}),
    "com.registryaccord.feed.comment": ({"text": _at_most(2048), "subject": _SUBJECTS}, {}),
    "com.registryaccord.feed.repost": ({"subject": _SUBJECTS}, {}),
    "com.registryaccord.moderation.flag": ({"subject": _SUBJECTS, "reason": _at_most(256)}, {}),
    "com.registryaccord.media.asset": (
        {"mimeType": st.sampled_from(["image/png", "video/mp4"]), "size": st.integers(0, 2**40), "checksum": _SHA256},
        {"filename": st.from_regex(r"[a-z]{1,12}\.(png|mp4)", fullmatch=True)},
    ),
}
COLLECTIONS = tuple(_MEMBERS)


def records_of(collection: str, author: str) -> SearchStrategy[dict[str, Any]]:
    """Return valid records of a bundled collection, with additional members that its schema does not name."""
    required, optional = _MEMBERS[collection]
    if collection == "com.registryaccord.feed.post":
        required = {**required, "authorDid": st.just(author)}
    known = {*required, *optional, "authorDid"}
    beyond = st.dictionaries(TEXTS.filter(lambda name: name not in known), JSON_VALUES, max_size=3)
    return st.builds(lambda own, more: {**more, **own}, st.fixed_dictionaries(required, optional=optional), beyond)
