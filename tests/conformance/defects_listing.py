"""Defects of listings."""

from __future__ import annotations

from tests.conformance.defects_model import Defect, defect

USE_CASE = "cdv_core/use_cases/records.py"
_PAGE = "JsonPage(found.records, cursor_after(found.records[-1]) if found.more"
SQLITE = "cdv_adapters/records/sqlite.py"
ROUTE = "cdv_http/routes/records.py"
CURSORS = "cdv_core/domain/cursors.py"

_TAKEN_LENIENTLY = """def _moment(text: str | None, name: str) -> datetime | None:
    try:
        return None if text is None else parse_time(text, name)
    except InvalidField:
        return None


def _decode_receipt("""
_AFTER = '        terms.append(("(indexed_at, rkey) < (?, ?)", (to_micros(after.indexed_at), after.rkey)))'

LISTING: list[Defect] = [
    defect(
        "page-under-another-name",
        "A page has its records in items instead of records.",
        "LIST-001",
        ("cdv_http/bodies.py", """b'{"records":[%b]%b}'""", """b'{"items":[%b]%b}'"""),
    ),
    defect(
        "oldest-first",
        "Records are listed oldest first.",
        "LIST-002",
        (SQLITE, "ORDER BY indexed_at DESC, rkey DESC LIMIT ?", "ORDER BY indexed_at, rkey LIMIT ?"),
    ),
    defect(
        "another-default",
        "The default limit is 50 instead of 25.",
        "LIST-003",
        ("cdv_core/domain/limits.py", "PAGE_DEFAULT: Final = 25", "PAGE_DEFAULT: Final = 50"),
    ),
    defect(
        "limits-capped",
        "A limit above 50 is treated as 50.",
        "LIST-004",
        (
            USE_CASE,
            "        catalogue = self._schemas.catalogue\n        listing",
            "        limit = min(limit, 50)\n        catalogue = self._schemas.catalogue\n        listing",
        ),
    ),
    defect(
        "one-more-than-asked",
        "A page holds one record more than its limit, if that many match.",
        "LIST-004",
        (USE_CASE, "self._store.list(listing)", "self._store.list(replace(listing, limit=limit + 1))"),
        trap="Off by one at a page boundary",
    ),
    defect(
        "bad-limits-ignored",
        "A malformed limit is replaced by the default.",
        "LIST-005",
        (
            ROUTE,
            '        raise InvalidField("limit", f"must be a whole number between 1 and {PAGE_MAX}")',
            "        return PAGE_DEFAULT",
        ),
        trap="A bad limit silently ignored",
    ),
    defect(
        "bad-limits-are-zero",
        "A malformed limit is treated as 0, and the page is empty.",
        "LIST-005",
        (
            ROUTE,
            '        raise InvalidField("limit", f"must be a whole number between 1 and {PAGE_MAX}")',
            "        return 0",
        ),
        (USE_CASE, "    if not 1 <= limit <= PAGE_MAX:", "    if limit > PAGE_MAX:"),
        (USE_CASE, "JsonPage(found.records, ", "JsonPage(found.records[:limit], "),
        trap="An unparsable limit becomes 0",
    ),
    defect(
        "limits-clamped",
        "A limit above 100 is treated as 100.",
        "LIST-005",
        (ROUTE, "    return int(text)", "    return min(int(text), PAGE_MAX)"),
    ),
    defect(
        "cursor-after-the-last",
        "A full page has a cursor even if no record follows.",
        "LIST-006",
        (USE_CASE, "if found.more else None", "if len(found.records) == limit else None"),
        trap="Off by one at a page boundary",
    ),
    defect(
        "no-cursor-for-the-last-one",
        "A page has no cursor if exactly one more record follows.",
        "LIST-006",
        (USE_CASE, "self._store.list(listing)", "self._store.list(replace(listing, limit=limit + 1))"),
        (USE_CASE, _PAGE, "JsonPage(found.records[:limit], cursor_after(found.records[limit - 1]) if found.more"),
        trap="Off by one at a page boundary",
    ),
    defect(
        "boundary-skipped",
        "The first record of the next page is skipped.",
        "LIST-007",
        (USE_CASE, "self._store.list(listing)", "self._store.list(replace(listing, limit=limit + 1))"),
        (USE_CASE, _PAGE, "JsonPage(found.records[:limit], cursor_after(found.records[-1]) if found.records[limit:]"),
        trap="Off by one at a page boundary",
    ),
    defect(
        "boundary-repeated",
        "The last record of a page is repeated as the first of the next.",
        "LIST-007",
        (SQLITE, _AFTER, _AFTER.replace("<", "<=")),
        trap="Off by one at a page boundary",
    ),
    defect(
        "cursor-without-key",
        "Cursors compare indexedAt only, in whole seconds, so that records of the same second are skipped.",
        "LIST-007",
        (SQLITE, _AFTER, '        terms.append(("indexed_at < ?", (to_micros(after.indexed_at),)))'),
        ("cdv_adapters/clock/system.py", "datetime.now(UTC)", "datetime.now(UTC).replace(microsecond=0)"),
    ),
    defect(
        "early-end-unsaid",
        "A page that ends before its limit because of its size has no cursor.",
        "LIST-007",
        (
            SQLITE,
            "return ListResult(records, more=True)",
            "return ListResult(records, more=len(records) == listing.limit)",
        ),
    ),
    defect(
        "pages-by-offset",
        "Pages are counted from the newest record, so that a new record shifts them.",
        "LIST-008",
        (
            USE_CASE,
            "        found = await self._store.list(listing)\n",
            """        offsets = self.__dict__.setdefault("offsets", {})
        start = offsets.get(cursor, 0)
        found = await self._store.list(replace(listing, after=None, limit=start + limit))
        del found.records[:start]
        if found.more:
            offsets[cursor_after(found.records[-1])] = start + limit
""",
        ),
    ),
    defect(
        "collection-ignored",
        "The records of a listing are not filtered by collection.",
        "LIST-009",
        (SQLITE, "    if listing.collection is not None:\n        terms", "    if False:\n        terms"),
    ),
    defect(
        "since-is-exclusive",
        "A record whose indexedAt equals since is left out.",
        "LIST-010",
        (SQLITE, '"indexed_at >= ?"', '"indexed_at > ?"'),
    ),
    defect(
        "until-is-exclusive",
        "A record whose indexedAt equals until is left out.",
        "LIST-010",
        (SQLITE, '"indexed_at <= ?"', '"indexed_at < ?"'),
    ),
    defect(
        "bounds-in-milliseconds",
        "since is truncated to milliseconds.",
        "LIST-010",
        (
            USE_CASE,
            "    if listing.since is not None and listing.until is not None",
            """    if listing.since is not None:
        listing = replace(listing, since=listing.since.replace(microsecond=listing.since.microsecond // 1000 * 1000))
    if listing.since is not None and listing.until is not None""",
        ),
    ),
    defect(
        "since-after-until",
        "A since later than until returns an empty page.",
        "LIST-011",
        (USE_CASE, "and listing.since > listing.until:", "and False:"),
    ),
    defect(
        "bad-since-ignored",
        "An invalid since is ignored.",
        "LIST-012",
        (USE_CASE, 'None if since is None else parse_time(since, "since", round_up=True)', '_moment(since, "since")'),
        (USE_CASE, "def _decode_receipt(", _TAKEN_LENIENTLY),
        trap="A bad since silently ignored",
    ),
    defect(
        "empty-page-is-null",
        "An empty page has null as its records.",
        "LIST-013",
        (
            "cdv_http/bodies.py",
            """    return b'{"records":[%b]%b}'""",
            """    if not page.records:
        return b'{"records":null}'
    return b'{"records":[%b]%b}'""",
        ),
        trap="An empty page as null",
    ),
    defect(
        "listing-of-anything",
        "A did that is not a DID returns an empty page.",
        "LIST-014",
        (USE_CASE, "        Did.parse(did),\n        limit,", "        Did(did),\n        limit,"),
    ),
    defect(
        "unknown-collection-empty",
        "An unknown collection returns an empty page.",
        "LIST-015",
        (USE_CASE, "            if listing.collection not in catalogue:\n", "            if False:\n"),
    ),
    defect(
        "cursor-says-more",
        "A cursor has an additional member.",
        "LIST-016",
        (CURSORS, "    last_rkey: str\n", "    last_rkey: str\n    version: int = 1\n"),
    ),
    defect(
        "bad-cursor-restarts",
        "An invalid cursor returns the first page.",
        "LIST-017",
        (
            USE_CASE,
            "    listing = _parse_listing(did, collection, limit, cursor, since, until)\n",
            """    try:
            listing = _parse_listing(did, collection, limit, cursor, since, until)
        except CdvError as error:
            if error.code != "CDV_CURSOR_INVALID":
                raise
            listing = _parse_listing(did, collection, limit, None, since, until)
""",
        ),
        trap="A bad cursor restarting at page one",
    ),
    defect(
        "cursors-of-many-spellings",
        "Non-canonical cursors are accepted, for example with another order of members.",
        "LIST-018",
        (CURSORS, " or cursor.encode() != text:", ":"),
    ),
    defect(
        "curt-refusal-of-cursors",
        "The error for an invalid cursor does not tell the client to start again without one.",
        "LIST-019",
        ("cdv_core/errors.py", '"the cursor is not valid ({reason}); start again without a cursor"', '"bad cursor"'),
    ),
    defect(
        "dids-by-prefix",
        "A listing includes the records of every DID that begins with the requested one.",
        "LIST-020",
        (SQLITE, '("did = ?", (listing.did,))', "(\"did GLOB ? || '*'\", (listing.did,))"),
    ),
    defect(
        "created-at-not-listed",
        "createdAt is left out of listings.",
        "LIST-021",
        (SQLITE, "record_json(_stored(row))", "record_json(_stored((*row[:7], None)))"),
    ),
]
