"""Bodies that have broken other services, and both sides of every size limit: a clear 4xx, never a 500."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.http.api import PROFILE, Creator, data, refused

PATHS = ("/v1/repo/record", "/v1/media/uploadInit", "/v1/media/finalize")
RECORD_MAX = 256 * 1024  # spec: rate limits, sizes
BODY_MAX = 1024 * 1024  # spec: rate limits, sizes
NESTING_MAX = 32  # spec: rate limits, sizes


def with_value(creator: Creator, value: str) -> bytes:
    """Return a createRecord body whose record holds the JSON text `value`."""
    return json.dumps(creator.body(record=...))[
        :-1
    ].encode() + f', "record": {{"displayName": "A", "x": {value}}}}}'.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"{", b"}", b"{'did':1}", b"\x00", b"nul", b"{,}", b"<did/>", b"did=x", b"\xef\xbb\xbf{}"),
        *("{}".encode("utf-16"), "{}".encode("utf-32"), b"\x1f\x8b\x08\x00", b"\xa1\x63did\x61x"),
        *(b"{} {}", b"[1,", b"5 x", b'{"did": 5', b'{"assetId": [}', b'{"unknown": 1, }'),  # of another shape as well
    ],
)
async def test_an_invalid_json_body_is_refused(ada: Creator, path: str, body: bytes) -> None:
    refused(await ada.post(path, body), 400, "CDV_BAD_REQUEST")


@pytest.mark.parametrize(
    "value",
    [
        *("NaN", "Infinity", "-Infinity", "01", "1.", "+1", ".5", "1e", "-", "0x10", "1_000", "tru", "undefined"),
        *(r'"\x"', r'"\u12"', '"\x01"', "'x'", "[1,]", "[", "{1:2}", '{"a"}', "//", "/**/1"),
    ],
)
async def test_an_invalid_json_value_is_refused(ada: Creator, value: str) -> None:
    refused(await ada.post("/v1/repo/record", with_value(ada, value)), 400, "CDV_BAD_REQUEST")


@pytest.mark.parametrize("tail", [b"x", b",", b"}", b"{}", b"\x00", b"\x0c", b"// end"])
async def test_trailing_bytes_after_the_body_are_refused(ada: Creator, tail: bytes) -> None:
    refused(await ada.post("/v1/repo/record", json.dumps(ada.body()).encode() + tail), 400, "CDV_BAD_REQUEST")


@pytest.mark.parametrize("cut", range(1, 120, 7))
async def test_truncated_json_is_refused(ada: Creator, cut: int) -> None:
    body = json.dumps(ada.body()).encode()
    refused(await ada.post("/v1/repo/record", body[:-cut]), 400, "CDV_BAD_REQUEST")


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"])
async def test_invalid_utf_8_is_refused(ada: Creator, bad: bytes) -> None:
    body = json.dumps(ada.body()).encode()
    for place in (b"Ada", b"displayName", b"did", b"collection"):
        error = refused(await ada.post("/v1/repo/record", body.replace(place, bad)), 400, "CDV_VALIDATION")
        assert "UTF-8" in error["message"]


@pytest.mark.parametrize(
    "text", [r"\ud800", r"\udc00", r"\udfff\ud800", r"a\ud83d", r"\ud83dx", r"\ud83d\u0041", r"\ud800\ud800", r"\uDBFF"]
)
async def test_a_lone_surrogate_is_refused_anywhere(ada: Creator, text: str) -> None:
    for body in (
        with_value(ada, f'"{text}"'),
        with_value(ada, f'"{text}and a long tail of characters behind it"'),
        with_value(ada, f'{{"{text}": 1}}'),
        with_value(ada, f'[["{text}"]]'),
        json.dumps(ada.body(did="@")).replace("@", text).encode(),
        f'{{"{text}": 1}}'.encode(),
    ):
        error = refused(await ada.post("/v1/repo/record", body), 400, "CDV_VALIDATION")
        assert "Unicode" in error["message"]


async def test_nul_is_refused_anywhere(ada: Creator) -> None:
    for value, pointer in (
        (r'"\u0000"', "record/x"),
        (r'"a\u0000b"', "record/x"),
        (r'["a", {"b": "\u0000"}]', "record/x/1/b"),
        (r'{"\u0000": 1}', "record/x/\x00"),
    ):
        error = refused(await ada.post("/v1/repo/record", with_value(ada, value)), 400, "CDV_VALIDATION")
        assert error["details"]["field"] == pointer
        assert "U+0000" in error["details"]["reason"]
    for member in ("did", "collection", "createdAt", "idempotencyKey", "schemaVersion"):
        nul: dict[str, Any] = {member: "a\x00b"}
        assert refused(await ada.create(**nul), 400, "CDV_VALIDATION")["details"]["field"] == member
    refused(await ada.init(filename="a\x00b"), 400, "CDV_VALIDATION")
    refused(await ada.init(mimeType="image/png\x00"), 400, "CDV_MEDIA_TYPE")
    refused(await ada.init(did="did:example:\x00"), 400, "CDV_VALIDATION")
    refused(await ada.finalize("01M85VXXZ7T2JXB720KXQH381M", "\x00" * 64), 400, "CDV_VALIDATION")
    refused(await ada.list(did="did:example:\x00"), 400, "CDV_VALIDATION")
    refused(await ada.list(cursor="\x00"), 400, "CDV_CURSOR_INVALID")
    refused(await ada.get("at://did:example:a/com.a.b/\x00"), 400, "CDV_VALIDATION")


@pytest.mark.parametrize(
    "number", [2**63, -(2**63) - 1, 2**64 - 1, 2**64, 10**30, 10**400, "1" * 5000, "-" + "9" * 9999]
)
async def test_an_integer_outside_64_bits_is_refused(ada: Creator, number: Any) -> None:
    for spelling in (f"{number}", f"[{number}]", f"{number}.0", f"{number}e0"):
        refused(await ada.post("/v1/repo/record", with_value(ada, spelling)), 400, "CDV_VALIDATION")


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 2**53 + 1, 0])
async def test_a_64_bit_integer_is_returned_exactly(ada: Creator, number: int) -> None:
    receipt = await ada.created(record={"displayName": "A", "x": [number]})
    record = await ada.get(receipt["uri"])
    assert data(record)["value"]["x"] == [number]
    assert f"[{number}]" in record.text


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e999999999999", "1e19", "1.5e308e", "9" * 400 + ".5"])
async def test_a_number_out_of_range_is_refused(ada: Creator, number: str) -> None:
    response = await ada.post("/v1/repo/record", with_value(ada, number))
    refused(response, 400, "CDV_BAD_REQUEST" if number.count("e") > 1 else "CDV_VALIDATION")


@pytest.mark.parametrize("number", ["1e-400", "5e-324", "1.7976931348623157e308", "-1.5e-300", "0.1"])
async def test_a_number_is_stored_as_the_nearest_double(ada: Creator, number: str) -> None:
    response = await ada.post("/v1/repo/record", with_value(ada, number))
    if float(number) >= 2**63:  # without a fractional part it is an integer, and outside 64 bits
        refused(response, 400, "CDV_VALIDATION")
    else:
        assert data(await ada.get(data(response)["uri"]))["value"]["x"] == float(number)


def nested(levels: int, kind: str) -> str:
    """Return `levels` nested containers."""
    opening, closing = {"array": ("[", "]"), "object": ('{"a":', "}")}[kind]
    innermost = {"array": "[]", "object": "{}"}[kind]
    return opening * (levels - 1) + innermost + closing * (levels - 1)


@pytest.mark.parametrize("kind", ["array", "object"])
async def test_nesting_is_limited_to_exactly_32_levels(ada: Creator, kind: str) -> None:
    deepest = nested(NESTING_MAX - 1, kind)  # the record itself is a level
    receipt = data(await ada.post("/v1/repo/record", with_value(ada, deepest)))
    assert data(await ada.get(receipt["uri"]))["value"]["x"] == json.loads(deepest)
    error = refused(
        await ada.post("/v1/repo/record", with_value(ada, nested(NESTING_MAX, kind))), 400, "CDV_VALIDATION"
    )
    assert "32" in error["message"]


@pytest.mark.parametrize("levels", [100, 1000, 10_000, 100_000])
@pytest.mark.parametrize("kind", ["array", "object"])
async def test_excessive_nesting_is_refused_anywhere(ada: Creator, levels: int, kind: str) -> None:
    deep = nested(levels, kind)
    for body in (
        with_value(ada, deep).decode(),
        f'{{"record": {deep}}}',
        f'{{"unknown": {deep}}}',
        json.dumps({"did": 1})[:-1] + f', "x": {deep}}}',
    ):
        refused(await ada.post("/v1/repo/record", body.encode()), 400, "CDV_VALIDATION")
    if kind == "array":
        refused(await ada.post("/v1/media/finalize", deep.encode()), 400, "CDV_VALIDATION")
        unclosed = await ada.post("/v1/repo/record", b"[" * levels)
        assert unclosed.status_code == 400
        assert unclosed.json()["error"]["code"] in {"CDV_VALIDATION", "CDV_BAD_REQUEST"}  # whichever check fails first


def record_of(size: int, filler: str = "x") -> dict[str, Any]:
    """Return a profile whose encoding is `size` bytes long."""
    empty = len(json.dumps({"displayName": "A", "x": ""}, separators=(",", ":")))
    return {"displayName": "A", "x": filler * ((size - empty) // len(filler.encode()))}


async def test_a_record_at_the_size_limit_is_accepted_and_one_over_it_refused(ada: Creator) -> None:
    receipt = await ada.created(record=record_of(RECORD_MAX))
    assert len(json.dumps(data(await ada.get(receipt["uri"]))["value"], separators=(",", ":"))) == RECORD_MAX
    error = refused(await ada.create(record=record_of(RECORD_MAX + 1)), 400, "CDV_VALIDATION")
    assert error["details"]["field"] == "record"
    assert str(RECORD_MAX) in error["message"]


async def test_a_records_size_is_measured_on_its_encoding_not_as_sent(ada: Creator) -> None:
    two_bytes_each = record_of(RECORD_MAX, "é")
    spelt_out = json.dumps(ada.body(record=two_bytes_each), indent=4, ensure_ascii=True).encode()
    assert len(spelt_out) > 2 * RECORD_MAX
    assert data(await ada.post("/v1/repo/record", spelt_out))
    two_bytes_each["x"] += "é"
    refused(await ada.create(record=two_bytes_each), 400, "CDV_VALIDATION")


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_at_the_size_limit_is_accepted_and_one_over_it_refused(ada: Creator, path: str) -> None:
    largest = b"{}".ljust(BODY_MAX)
    refused(await ada.post(path, largest), 400, "CDV_VALIDATION")  # read, and then missing its members
    error = refused(await ada.post(path, largest + b" "), 413, "CDV_BAD_REQUEST")
    assert str(BODY_MAX) in error["message"]
    assert data(await ada.post("/v1/repo/record", json.dumps(ada.body()).encode().ljust(BODY_MAX)))


async def chunks(body: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("path", PATHS)
async def test_the_body_limit_holds_without_a_content_length(ada: Creator, path: str) -> None:
    headers = {**ada.auth, "Content-Type": "application/json"}
    largest = b"{}".ljust(BODY_MAX)
    refused(await ada.api.http.post(path, content=chunks(largest), headers=headers), 400, "CDV_VALIDATION")
    for size in (1, BODY_MAX):
        answer = await ada.api.http.post(path, content=chunks(largest + b" " * size), headers=headers)
        refused(answer, 413, "CDV_BAD_REQUEST")


@pytest.mark.parametrize("length", ["", "-1", "abc", "1e9", "99999999999999999999999999", "\u0665", " 5 "])
async def test_an_invalid_content_length_is_refused_or_ignored(ada: Creator, length: str) -> None:
    body = json.dumps(ada.body()).encode()
    headers = {**ada.auth, "Content-Type": "application/json", "Content-Length": length.encode()}
    answer = await ada.api.http.post("/v1/repo/record", content=body, headers=headers)  # type: ignore[arg-type]
    if length.startswith("999"):
        refused(answer, 413, "CDV_BAD_REQUEST")
    elif answer.status_code != 200:  # the HTTP server refuses most of them before the application
        refused(answer, 400, "CDV_BAD_REQUEST")


@pytest.mark.parametrize(
    "query",
    [
        *(
            "did=%ff",
            "did=%C3",
            "limit=%ff",
            "%ff=1",
            "did=%ED%A0%80",
            "cursor=%00",
            "&" * 60 + "did=x",
            "did=x;limit=1",
        ),
        *("a=" * 100, "did[]=x", "did=x&limit[]=1", "=x", "&&&", "did", "did=", "?did=x", "%", "did=%zz"),
    ],
)
async def test_a_hostile_query_is_refused(ada: Creator, query: str) -> None:
    for path in ("/v1/repo/listRecords", "/v1/repo/record"):
        refused(await ada.api.http.get(f"{path}?{query}"), 400, "CDV_VALIDATION")


@pytest.mark.parametrize(
    "segment",
    ["%00", "%ff", "%2e%2e", "%2f", "..%2f..%2fetc%2fpasswd", "%F0%9F%98%80", "a%20b", "%", "%zz", "x" * 5000,
     "%0d%0aSet-Cookie:x=y", "01m85vxxz7t2jxb720kxqh381m", "81M85VXXZ7T2JXB720KXQH381M", "01M85VXXZ7T2JXB720KXQH381",
     "null", "{assetId}"],
)  # fmt: skip
async def test_a_malformed_asset_id_is_not_found(ada: Creator, segment: str) -> None:
    for leaf in ("meta", "content"):
        refused(await ada.api.http.get(f"/v1/media/{segment}/{leaf}", headers=ada.auth), 404, "CDV_NOT_FOUND")


@pytest.mark.parametrize("name", ["Ada\u202e", "\u2028", "'; DROP TABLE records; --", "<script>alert(1)", "\ufeff",
                                  "\U0010ffff", "\ud7ff\ue000", "\ufffe\uffff", "${7*7}{{7*7}}%s%n", "\x7f\x85\x01",
                                  "null"])  # fmt: skip
async def test_hostile_text_is_returned_unchanged(ada: Creator, name: str) -> None:
    receipt = await ada.created(record={"displayName": name, name: [name]})
    record = await ada.get(receipt["uri"])
    assert data(record)["value"] == {"displayName": name, name: [name]}
    assert data(await ada.list())["records"][0]["value"] == {"displayName": name, name: [name]}


@pytest.mark.parametrize("uri", ["", "at://", "at:///", "at://x/y/z", f"at://did:example:a/{PROFILE}", "did:example:a",
                                 f"at://did:example:a/{PROFILE}/x/y", f"at://did:example:a/{PROFILE}/",
                                 f"at://did:example:a/{PROFILE}/..",
                                 f"AT://did:example:a/{PROFILE}/x", f"at://did:example:a/{PROFILE}/x#y",
                                 f"at://did:example:a/{PROFILE}/x?y",
                                 f" at://did:example:a/{PROFILE}/x", f"at://did:example:a/{PROFILE}/é", "https://example.com",
                                 f"at://did:example:a//{PROFILE}/x", "at://did:example:a/not-an-nsid/x",
                                 "x" * 9000])  # fmt: skip
async def test_a_malformed_uri_is_refused(ada: Creator, uri: str) -> None:
    assert refused(await ada.get(uri), 400, "CDV_VALIDATION")["details"]["field"] == "uri"
