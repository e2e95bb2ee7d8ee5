"""GET /v1/repo/listRecords (spec: endpoints, listRecords; domain, cursors)."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cdv_core.domain.times import format_time
from tests.fakes.clock import FakeClock
from tests.http.api import POST, PROFILE, Api, Creator, data, refused, serving

REPOST = "com.registryaccord.feed.repost"
START = datetime.fromisoformat("2026-11-24T02:53:29.331656+00:00")


@pytest.fixture(scope="module")
async def frozen(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """A vault whose clock moves only when advanced."""
    async with serving(tmp_path_factory.mktemp("still"), FakeClock(START)) as api:
        yield api


@pytest.fixture(scope="module")
async def many(api: Api) -> Creator:
    """A creator with 201 records, more than fit two pages."""
    creator = api.creator()
    for number in range(201):
        await creator.created(collection=REPOST, record={"subject": f"{number}"})
    return creator


async def walk(creator: Creator, **parameters: Any) -> list[list[dict[str, Any]]]:
    """Return every page, following the cursors."""
    pages: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        page = data(await creator.list(**parameters, **cursor))
        pages.append(page["records"])
        if "nextCursor" not in page:
            assert set(page) == {"records"}
            return pages
        cursor = {"cursor": page["nextCursor"]}


async def test_a_page_of_large_records_ends_early_with_a_cursor(api: Api) -> None:
    ada = api.creator()
    for number in range(9):
        await ada.created(record={"displayName": f"{number}", "picture": "x" * 250_000})
    pages = await walk(ada, limit=100)
    assert [names(page) for page in pages] == [["8", "7", "6", "5"], ["4", "3", "2", "1"], ["0"]]


def names(records: list[dict[str, Any]]) -> list[str]:
    return [record["value"]["displayName"] for record in records]


async def named(creator: Creator, *displayed: str) -> list[dict[str, Any]]:
    return [await creator.created(record={"displayName": name}) for name in displayed]


async def test_an_unknown_did_has_an_empty_page(api: Api) -> None:
    assert data(await api.creator().list()) == {"records": []}
    assert data(await api.creator().list(collection=POST, limit=100)) == {"records": []}


async def test_a_did_is_required(api: Api) -> None:
    error = refused(await api.http.get("/v1/repo/listRecords"), 400, "CDV_VALIDATION")
    assert error["details"]["field"] == "did"


async def test_a_listed_record_is_the_one_that_get_returns(ada: Creator) -> None:
    first = await ada.created(createdAt="2026-01-01T00:00:00Z")
    second = await ada.created(collection=REPOST, record={"subject": "x"})
    listed = data(await ada.list())["records"]
    assert listed == [data(await ada.get(second["uri"])), data(await ada.get(first["uri"]))]
    assert [each["cid"] for each in listed] == [second["cid"], first["cid"]]


async def test_a_listing_returns_only_the_records_of_its_did(ada: Creator, bob: Creator) -> None:
    await named(ada, "mine")
    await named(bob, "theirs")
    assert names(data(await ada.list())["records"]) == ["mine"]


async def test_a_listing_can_be_restricted_to_a_collection(ada: Creator) -> None:
    await named(ada, "a", "b")
    await ada.created(collection=REPOST, record={"subject": "x"})
    assert names(data(await ada.list(collection=PROFILE))["records"]) == ["b", "a"]
    assert [each["value"] for each in data(await ada.list(collection=REPOST))["records"]] == [{"subject": "x"}]
    assert data(await ada.list(collection=POST))["records"] == []
    assert len(data(await ada.list())["records"]) == 3


async def test_an_unknown_collection_is_refused_for_an_unknown_did_too(api: Api) -> None:
    error = refused(await api.creator().list(collection="com.example.unknown"), 400, "CDV_VALIDATION")
    assert error["details"]["field"] == "collection"


@pytest.mark.parametrize(
    "limit",
    [
        *("0", "-1", "101", "1000", "99999999999999999999", "abc", "", " ", "1.0", "1e1", "+1", " 1", "1 ", "01"),
        *("0x1", "\u0663", "1_0", "null"),
    ],
)
async def test_a_limit_outside_1_to_100_is_refused(ada: Creator, limit: str) -> None:
    error = refused(await ada.list(limit=limit), 400, "CDV_VALIDATION")
    assert error["details"]["field"] == "limit"


async def test_a_page_holds_25_records_by_default(many: Creator) -> None:
    assert len(data(await many.list())["records"]) == 25


@pytest.mark.parametrize("limit", [1, 2, 25, 99, 100])
async def test_a_page_holds_as_many_records_as_the_limit(many: Creator, limit: int) -> None:
    page = data(await many.list(limit=limit))
    assert [each["value"]["subject"] for each in page["records"]] == [str(200 - number) for number in range(limit)]
    assert "nextCursor" in page


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 7])
async def test_a_cursor_is_returned_only_if_more_records_follow(ada: Creator, limit: int) -> None:
    await named(ada, *"abcdef")
    pages = await walk(ada, limit=limit)
    assert "".join(itertools.chain(*map(names, pages))) == "fedcba"
    # No last page is empty, and all before it are full.
    assert [len(page) for page in pages] == [limit] * (6 // limit) + ([6 % limit] if 6 % limit else [])


async def test_paging_returns_every_record_once_in_order(many: Creator) -> None:
    for limit in (1 + 66, 100):
        records = list(itertools.chain(*await walk(many, limit=limit)))
        assert [each["value"]["subject"] for each in records] == [str(200 - number) for number in range(201)]
        positions = [(each["indexedAt"], each["uri"].rpartition("/")[2]) for each in records]
        assert positions == sorted(positions, reverse=True)


async def test_records_of_one_instant_are_ordered_by_their_key_and_paged_exactly(frozen: Api) -> None:
    creator = frozen.creator()
    await named(creator, *"abcdefg")
    assert len({each["indexedAt"] for each in data(await creator.list())["records"]}) == 1
    for limit in range(1, 9):
        assert "".join(itertools.chain(*map(names, await walk(creator, limit=limit)))) == "gfedcba"


async def test_paging_is_not_disturbed_by_writes_between_pages(ada: Creator) -> None:
    await named(ada, *"abcdef")
    listed: list[str] = []
    cursor: dict[str, str] = {}
    for number in range(3):
        page = data(await ada.list(limit=2, **cursor))
        listed += names(page["records"])
        await named(ada, f"new {number}")
        cursor = {"cursor": page["nextCursor"]} if "nextCursor" in page else {}
    assert listed == list("fedcba")
    assert not cursor


async def test_a_cursor_continues_in_a_listing_with_another_filter(ada: Creator) -> None:
    await named(ada, "a")
    await ada.created(collection=REPOST, record={"subject": "x"})
    await named(ada, "b", "c")
    assert [names(page) for page in await walk(ada, collection=PROFILE, limit=1)] == [["c"], ["b"], ["a"]]
    cursor = data(await ada.list(limit=1))["nextCursor"]
    assert names(data(await ada.list(collection=PROFILE, cursor=cursor, limit=1))["records"]) == ["b"]


async def test_a_cursor_has_the_documented_format(ada: Creator) -> None:
    await named(ada, "a", "b")
    page = data(await ada.list(limit=1))
    cursor = page["nextCursor"]
    assert json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))) == {
        "lastIndexedAt": page["records"][0]["indexedAt"],
        "lastRkey": page["records"][0]["uri"].rpartition("/")[2],
    }


RKEY = "01M85VXXZ7T2JXB720KXQH381M"
GOOD = {"lastIndexedAt": "2026-11-24T02:53:29.331656Z", "lastRkey": RKEY}


def cursor_of(value: object, **options: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":"), **options).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


async def test_a_well_formed_cursor_built_by_a_client_is_accepted(ada: Creator) -> None:
    assert data(await ada.list(cursor=cursor_of(GOOD))) == {"records": []}


INVALID_RKEYS: tuple[Any, ...] = ("", 5, None, [], RKEY.lower(), f"8{RKEY[1:]}", f"{RKEY}0", "\x00")
INVALID_INSTANTS: tuple[Any, ...] = (
    *(
        "",
        5,
        None,
        1e400,
        "now",
        "2026-11-24T02:53:29Z",
        "2026-11-24T02:53:29.331656+00:00",
        "2026-11-24t02:53:29.331656z",
    ),
    *("2026-02-30T00:00:00.000000Z", "0000-01-01T00:00:00.000000Z", "2026-11-24T02:53:29.3316560Z"),
)


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "x", "!", "====", "bm90IGpzb24", "0", "null", f"{cursor_of(GOOD)}=", f"{cursor_of(GOOD)}==", " x"),
        *(f" {cursor_of(GOOD)}", cursor_of(GOOD)[:-1], f"{cursor_of(GOOD)}A", cursor_of(GOOD)[1:]),
        *(cursor_of(GOOD).swapcase(), cursor_of(GOOD) * 2),
        *(
            cursor_of(each)
            for each in (None, 5, "x", [], {}, [GOOD], {**GOOD, "x": 1}, b"{", b"\xff", b"", b"[" * 9999)
        ),
        *(cursor_of({"lastRkey": RKEY}), cursor_of({"lastIndexedAt": GOOD["lastIndexedAt"]})),
        *(cursor_of({**GOOD, "lastRkey": each}) for each in INVALID_RKEYS),
        *(cursor_of({**GOOD, "lastIndexedAt": each}) for each in INVALID_INSTANTS),
        *(cursor_of(json.dumps(GOOD).encode()), cursor_of(dict(reversed(GOOD.items())))),
        cursor_of(json.dumps(GOOD, separators=(",", ":")).replace("last", "\\u006cast", 1).encode()),
        cursor_of(json.dumps({**GOOD}, separators=(",", ":")).replace("}", ',"lastRkey":"x"}').encode()),
        base64.b64encode(json.dumps({"lastIndexedAt": "?>?>", "lastRkey": "?>?>?>"}).encode()).decode(),
    ],
)
async def test_an_invalid_cursor_is_refused_with_advice_to_start_again(ada: Creator, cursor: str) -> None:
    await named(ada, "a")
    for parameters in ({}, {"collection": PROFILE}, {"limit": 1}):
        error = refused(await ada.list(cursor=cursor, **parameters), 400, "CDV_CURSOR_INVALID")
        assert "start again without" in error["message"]


async def test_since_and_until_are_inclusive_to_the_microsecond(frozen: Api) -> None:
    assert frozen.clock is not None
    creator = frozen.creator()
    moments = []
    for name in "abc":
        frozen.clock.moment += timedelta(microseconds=1)
        moments.append(frozen.clock.moment)
        await named(creator, name)
    tick = timedelta(microseconds=1)
    for since, until in itertools.product([moments[0] - tick, *moments, moments[2] + tick], repeat=2):
        expected = [name for name, at in zip("cba", moments[::-1], strict=True) if since <= at <= until]
        bounds = {"since": format_time(since), "until": format_time(until)}
        if since > until:
            assert refused(await creator.list(**bounds), 400, "CDV_VALIDATION")["details"]["field"] == "since"
            continue
        assert names(data(await creator.list(**bounds))["records"]) == expected
        assert list(itertools.chain(*map(names, await walk(creator, limit=1, **bounds)))) == expected
    for at, newer, older in zip(moments, ["cba", "cb", "c"], ["a", "ba", "cba"], strict=True):
        assert "".join(names(data(await creator.list(since=format_time(at)))["records"])) == newer
        assert "".join(names(data(await creator.list(until=format_time(at)))["records"])) == older


async def test_since_and_until_may_be_finer_than_a_microsecond(frozen: Api) -> None:
    assert frozen.clock is not None
    frozen.clock.moment = datetime(2026, 1, 2, 3, 4, 5, 100, UTC)
    creator = frozen.creator()
    await named(creator, "a")
    second = "2026-01-02T03:04:05"
    for bounds, found in (
        ({"since": f"{second}.0001000Z"}, ["a"]),
        ({"since": f"{second}.0001001Z"}, []),
        ({"until": f"{second}.0001009Z"}, ["a"]),
        ({"until": f"{second}.0000999Z"}, []),
        ({"since": f"{second}.0000999Z", "until": f"{second}.0001001Z"}, ["a"]),
    ):
        assert names(data(await creator.list(**bounds))["records"]) == found, bounds
    error = refused(await creator.list(since=f"{second}.0001009Z", until=f"{second}.0001001Z"), 400, "CDV_VALIDATION")
    assert error["details"]["field"] == "since"


async def test_since_and_until_accept_any_offset(ada: Creator) -> None:
    (receipt,) = await named(ada, "a")
    at = datetime.fromisoformat(receipt["indexedAt"])
    for hours in (-12, 0, 5.5, 14):
        shifted = at.astimezone(datetime.strptime("+0000", "%z").tzinfo) + timedelta(hours=hours)
        sign, minutes = ("-" if hours < 0 else "+"), int(abs(hours) * 60)
        text = f"{shifted:%Y-%m-%dT%H:%M:%S.%f}{sign}{minutes // 60:02}:{minutes % 60:02}"
        assert names(data(await ada.list(since=text, until=text))["records"]) == ["a"]


async def test_a_plus_sign_in_since_and_until_need_not_be_percent_encoded(ada: Creator) -> None:
    await named(ada, "a")
    for sign in ("+", "%2B", "%2b"):
        bounds = f"since=2026-01-01T01:30:00{sign}01:30&until=9999-12-31T00:00:00{sign}00:00"
        answer = await ada.api.http.get(f"/v1/repo/listRecords?did={ada.did}&{bounds}")
        assert names(data(answer)["records"]) == ["a"], sign


async def test_since_and_until_accept_the_ends_of_the_calendar(ada: Creator) -> None:
    await named(ada, "a")
    everything = {"since": "0001-01-01T00:00:00Z", "until": "9999-12-31T23:59:59.999999Z"}
    assert names(data(await ada.list(**everything))["records"]) == ["a"]
    assert data(await ada.list(until=everything["since"])) == {"records": []}
    assert data(await ada.list(since=everything["until"])) == {"records": []}
