"""Tests of listings: the content of pages, their order, filters, and walks over all pages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from conformance.http.fixtures import RECORDS, newcomer
from conformance.http.plan import Plan
from conformance.http.profiles import for_all
from conformance.http.requirements import clause, judges, not_judged
from conformance.http.vault import FOLLOW, LIST, PROFILE, Creator, Vault, concurrently, data, expect_error

LARGE_RECORDS, LARGE_TEXT_CHARS = 9, 250_000  # together more than a server may want to hold for one page


def position(record: dict[str, Any]) -> tuple[str, str]:
    return record["indexedAt"], record["uri"].rpartition("/")[2]


def walk(creator: Creator, limit: int, between: Callable[[], object] = lambda: None, **filters: Any) -> list[list[Any]]:
    """Read all pages and return them. `between` is called after each page."""
    pages = []
    cursor: dict[str, str] = {}
    while True:
        page = data(creator.listing(limit=limit, **filters, **cursor))
        pages.append(page["records"])
        between()
        if "nextCursor" not in page:
            return pages
        cursor = {"cursor": page["nextCursor"]}
        assert len(pages) < 200, "the walk has not ended after 200 pages"


@judges("LIST-001", "LIST-021")
@newcomer("ada")
def test_a_page_shows_a_record_as_get_does(ada: Creator):
    ada.created(createdAt="2026-11-24T03:53:29+01:00")
    ada.created()
    page = data(ada.listing())

    with clause("LIST-001"):
        assert {"records"} <= set(page) <= {"records", "nextCursor"}
        for record in page["records"]:
            assert {"uri", "cid", "value", "indexedAt", "schemaVersion"} <= set(record)
    with clause("LIST-021"):
        assert [data(ada.get(record["uri"])) for record in page["records"]] == page["records"]


@judges("LIST-002")
def test_the_newest_comes_first(everything: list[dict[str, Any]]):
    positions = [position(record) for record in everything]

    assert positions == sorted(positions, reverse=True)


@judges("LIST-002")
def test_concurrent_writes_are_listed_in_order(vault: Vault):
    new = vault.creator()
    concurrently(lambda n: new.created(record={"displayName": str(n)}), range(16))

    positions = [position(record) for page in walk(new, 5) for record in page]

    assert len(positions) == 16
    assert positions == sorted(positions, reverse=True)


@judges("LIST-003")
def test_a_page_holds_25_unless_asked(writer: Creator):
    assert len(data(writer.listing())["records"]) == 25


@judges("LIST-004", "LIST-006", "LIST-007", "LIST-009")
@for_all(
    cost=2,
    limit=st.integers(1, RECORDS + 2) | st.sampled_from([1, 10, 15, RECORDS - 1, RECORDS, 100]),
    only=st.sampled_from([None, FOLLOW, PROFILE]),
)
def test_the_pages_contain_every_record_once(
    writer: Creator, everything: list[dict[str, Any]], limit: int, only: str | None
):
    expected = [it for it in everything if only is None or f"/{only}/" in it["uri"]]
    filters: dict[str, Any] = {"collection": only} if only else {}
    first = data(writer.listing(limit=limit, **filters))
    with clause("LIST-009" if only else "LIST-007"):
        assert all(not only or f"/{only}/" in it["uri"] for it in first["records"])
    with clause("LIST-004"):
        assert len(first["records"]) == min(limit, len(expected))
    with clause("LIST-006"):
        assert ("nextCursor" in first) == (limit < len(expected))

    pages = walk(writer, limit, **filters) if limit > 2 or len(expected) <= 20 else [first["records"]]

    with clause("LIST-009" if only else "LIST-007"):
        assert all(not only or f"/{only}/" in it["uri"] for page in pages for it in page)
    with clause("LIST-007"):
        assert [it for page in pages for it in page] == expected[: sum(map(len, pages))]
        assert len(pages) == 1 or sum(map(len, pages)) == len(expected)
    with clause("LIST-006"):
        assert all(page or not expected for page in pages), "an empty page after a nextCursor"


@judges("LIST-007")
def test_a_walk_returns_all_large_records(vault: Vault, plan: Plan):
    """A page may hold fewer large records than `limit`, as long as it has a nextCursor."""
    if plan.max_body_bytes < LARGE_TEXT_CHARS + 1000:
        not_judged(f"a body limit of {plan.max_body_bytes} bytes leaves no room for large records")
    new = vault.creator()
    for number in range(LARGE_RECORDS):
        new.created(record={"displayName": str(number), "x": "x" * LARGE_TEXT_CHARS})

    with clause("LIST-007"):
        walked = [it["value"]["displayName"] for page in walk(new, 100) for it in page]
        assert walked == [str(number) for number in reversed(range(LARGE_RECORDS))]


@judges("LIST-004", "LIST-006")
def test_only_the_last_page_has_no_cursor(writer: Creator):
    for limit in (1, RECORDS - 1, RECORDS, RECORDS + 1):
        page = data(writer.listing(limit=limit))
        with clause("LIST-004"):
            assert len(page["records"]) == min(limit, RECORDS)
        with clause("LIST-006"):
            assert ("nextCursor" in page) == (limit < RECORDS), f"{limit} of {RECORDS} records"


@judges("LIST-004")
def test_the_largest_page_is_complete(vault: Vault):
    new = vault.creator()
    for _ in range(7):
        concurrently(lambda n: new.created(record={"displayName": str(n)}), range(15))

    for limit in (99, 100):
        assert len(data(new.listing(limit=limit))["records"]) == limit


@judges("LIST-005")
@for_all(
    every=True,
    limit=st.sampled_from(
        ["0", "101", "-1", "1.5", "ten", "", " 5", "1e1", "+5", "0x5", "1000000000000000000000", "5,5", "\u0665"]
    ),
)
def test_any_other_limit_is_refused(writer: Creator, limit: str):
    expect_error(writer.listing(limit=limit), 400)


@judges("LIST-008")
@for_all(cost=4, limit=st.integers(2, 7), writers=st.integers(1, 3))
def test_a_walk_misses_nothing_while_others_write(vault: Vault, limit: int, writers: int):
    new = vault.creator()
    before = {new.created(record={"displayName": str(number)})["uri"] for number in range(12)}

    def write() -> None:
        concurrently(lambda n: new.created(record={"displayName": f"later {n}"}), range(writers))

    walked = [record["uri"] for page in walk(new, limit, between=write) for record in page]

    assert len({*walked}) == len(walked), "a record was returned twice"
    assert not before - {*walked}, f"{len(before - {*walked})} records were missed"


@judges("LIST-010", "LIST-012")
@for_all(first=st.integers(0, RECORDS - 1), last=st.integers(0, RECORDS - 1), minutes=st.integers(-720, 840))
def test_since_and_until_are_inclusive(
    writer: Creator, everything: list[dict[str, Any]], first: int, last: int, minutes: int
):
    newest, oldest = min(first, last), max(first, last)
    since, until = everything[oldest]["indexedAt"], everything[newest]["indexedAt"]
    expected = [record for record in everything if since <= record["indexedAt"] <= until]
    with clause("LIST-010"):
        assert writer.listed(since=since, until=until) == expected
        assert writer.listed(since=since) == [it for it in everything if since <= it["indexedAt"]]
        assert [it for page in walk(writer, 7, since=since, until=until) for it in page] == expected

    elsewhere = datetime.fromisoformat(since).astimezone(timezone(timedelta(minutes=minutes))).isoformat()

    with clause("LIST-012"):
        assert writer.listed(since=elsewhere, until=until) == expected, elsewhere


@judges("LIST-010")
def test_bounds_are_exact_to_a_microsecond(writer: Creator, everything: list[dict[str, Any]]):
    middle = everything[RECORDS // 2]
    moment = datetime.fromisoformat(middle["indexedAt"])
    after = (moment + timedelta(microseconds=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    before = (moment - timedelta(microseconds=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    assert middle not in writer.listed(since=after)
    assert middle not in writer.listed(until=before)


@judges("LIST-011")
def test_since_after_until_is_refused(writer: Creator, everything: list[dict[str, Any]]):
    newest, oldest = everything[0]["indexedAt"], everything[-1]["indexedAt"]
    assert newest > oldest

    expect_error(writer.listing(since=newest, until=oldest), 400)


@judges("LIST-012")
@for_all(
    every=True,
    name=st.sampled_from(["since", "until"]),
    text=st.sampled_from(
        [
            "2026-11-24T02:53:29",
            "2026-11-24",
            "yesterday",
            "",
            "1763951609",
            "2026-02-30T00:00:00Z",
            "2026-11-24T02:53:29+25:00",
        ]
    ),
)
def test_an_invalid_bound_is_refused(writer: Creator, name: str, text: str):
    expect_error(writer.listing(**{name: text}), 400)


@judges("LIST-013")
@newcomer("ada")
def test_a_did_without_records_has_an_empty_page(vault: Vault, ada: Creator):
    for filters in ({}, {"collection": PROFILE}, {"limit": 1}):
        page = data(ada.listing(**filters))
        assert page == {"records": []}, page


@judges("LIST-014")
@for_all(
    every=True,
    did=st.sampled_from(
        ["", "did:", "nobody", "did:example", "DID:example:a", "did:example:a b", "did:example:" + "x" * 2040]
    ),
)
def test_a_listing_needs_a_did(ada: Creator, did: str):
    expect_error(ada.listing(did=did), 400)


@judges("LIST-014")
def test_a_listing_without_did_is_refused(vault: Vault, ada: Creator):
    expect_error(vault.send("GET", LIST, by=ada), 400)


@judges("LIST-015")
@for_all(
    every=True,
    collection=st.sampled_from(["com.example.nobody.knows", "post", "", "a..b", PROFILE.upper(), f"{PROFILE} ", "%"]),
)
def test_an_unknown_collection_is_refused(writer: Creator, collection: str):
    expect_error(writer.listing(collection=collection), 400)


@judges("LIST-020")
@newcomer("ada", "bob")
def test_a_listing_has_records_of_its_did_only(vault: Vault, ada: Creator, bob: Creator):
    hers, his = ada.created()["uri"], bob.created()["uri"]
    # One DID is a prefix of the other, which a comparison by prefix would confuse.
    longer = vault.creator(f"{ada.did}x")
    longer.created()

    assert [it["uri"] for it in ada.listed()] == [hers]
    assert [it["uri"] for it in bob.listed()] == [his]
    assert len(longer.listed()) == 1
