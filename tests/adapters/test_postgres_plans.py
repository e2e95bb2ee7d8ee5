"""On 100,000 rows every listing is an index scan of no more than its page: no table scan, no sort.

Both kinds of plan for a prepared statement are checked: custom and generic.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace
from psycopg import sql

from cdv_adapters.database.postgres_migration import migrate
from cdv_adapters.media import postgres as media
from cdv_adapters.outbox import postgres as outbox
from cdv_adapters.records import postgres as records
from cdv_adapters.records.postgres import listing_query
from cdv_core.domain.cursors import Cursor
from cdv_core.domain.identifiers import Did
from cdv_core.domain.records import ListQuery
from conformance.ports.stores import ALICE, FLAG, LIKE, POST, START, later
from tests.servers import PostgresServer

# Alice has 60,000 records, one in 20 of them a flag; 400 others have 100 each. One event in 100 waits to be published,
# and ten are of media.
FILL = f"""
INSERT INTO accounts SELECT 'did:plc:' || n, '{START}' FROM generate_series(1, 400) AS n;
INSERT INTO records
SELECT
    CASE WHEN n <= 60000 THEN '{ALICE}' ELSE 'did:plc:' || n % 400 END,
    CASE WHEN n % 20 = 0 THEN '{FLAG}' WHEN n % 3 = 0 THEN '{LIKE}' ELSE '{POST}' END,
    lpad(n::text, 26, '0'), repeat('c', 59), '{{"text": "hello"}}', '{START}'::timestamptz + n * interval '1 us', '1'
FROM generate_series(1, 100000) AS n;
INSERT INTO op_log (event_id, did, subject, envelope, occurred_at, stream_sequence)
SELECT
    rkey, did, CASE WHEN rkey::int % 10000 = 0 THEN 'cdv.media.finalized' ELSE 'cdv.records.x.created' END, '{{}}',
    indexed_at, CASE WHEN random() < 0.99 THEN 1 END
FROM records;
INSERT INTO replies
SELECT did, rkey, 'f', 'r', indexed_at FROM records;
INSERT INTO assets
SELECT rkey, did, 'image/png', 1, indexed_at, indexed_at, NULL, NULL, NULL,
    CASE WHEN random() < 0.99 THEN 'finalized' ELSE 'pending' END, random() < 0.99
FROM records;
VACUUM ANALYZE;
"""
PAGE = 26
# Each row of a page may be in a different block; the index above them has a few levels.
PAGE_BLOCKS = 3 * PAGE

MIDDLE, DEEP = later(30_000), Cursor(later(500), "0" * 23 + "500")
LISTINGS = {
    "the newest": ListQuery(ALICE, PAGE),
    "of a creator with few records": ListQuery(Did("did:plc:7"), PAGE),
    "of an unknown creator": ListQuery(Did("did:plc:none"), PAGE),
    "without the hidden": ListQuery(ALICE, PAGE, hidden=frozenset({FLAG})),
    "after a cursor": ListQuery(ALICE, PAGE, after=DEEP),
    "after a cursor, without the hidden": ListQuery(ALICE, PAGE, hidden=frozenset({FLAG}), after=DEEP),
    "since": ListQuery(ALICE, PAGE, since=MIDDLE),
    "until": ListQuery(ALICE, PAGE, until=MIDDLE),
    "since and until": ListQuery(ALICE, PAGE, since=MIDDLE, until=later(30_010)),
    "since and until, after a cursor": ListQuery(ALICE, PAGE, since=START, until=MIDDLE, after=DEEP),
    "until before the cursor": ListQuery(ALICE, PAGE, until=later(400), after=DEEP),
    "with an empty range": ListQuery(ALICE, PAGE, since=later(99_999_999)),
}
LISTINGS |= {f"{name}, in one collection": replace(listing, collection=LIKE) for name, listing in LISTINGS.items()}


@pytest.fixture(scope="module")
def database(postgres_server: PostgresServer) -> Iterator[psycopg.Connection]:
    dsn = postgres_server.create_database()
    asyncio.run(migrate(dsn))  # not anyio's: that refuses while an async fixture of the session is open
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in FILL.split(";\n"):
            connection.execute(statement.encode())
        connection.execute(b"INSERT INTO relay_lease VALUES (1, 'relay', now())")
        yield connection
    postgres_server.drop_database(dsn)


def prepared_plan(database: psycopg.Connection, mode: str, query: str, parameters: Any) -> dict[str, Any]:
    """Return the plan of the executed prepared query, from EXPLAIN (ANALYZE)."""
    names = list(parameters) if isinstance(parameters, dict) else [str(place) for place in range(len(parameters))]
    places = iter(names)
    numbered = re.sub(r"%(?:\((\w+)\))?s", lambda match: f"${names.index(match[1] or next(places)) + 1}", query)
    values = list(parameters.values()) if isinstance(parameters, dict) else list(parameters)
    given = sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, values))) if values else sql.SQL("")
    database.execute(f"SET plan_cache_mode = {mode}".encode())
    database.execute(f"PREPARE question AS {numbered}".encode())
    try:
        explain = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE question{}").format(given)
        ((explained,),) = database.execute(explain).fetchall()
    finally:
        database.execute(b"DEALLOCATE question")
    plan: dict[str, Any] = explained[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return the type of each plan node, and its index or table."""
    by = plan.get("Index Name") or plan.get("Relation Name")
    return [(plan["Node Type"], by), *(node for child in plan.get("Plans", []) for node in nodes(child))]


def blocks(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


both_plans = pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])


@both_plans
@pytest.mark.parametrize("listing", LISTINGS.values(), ids=LISTINGS)
def test_a_listing_is_an_index_scan_bounded_by_its_page(database, listing: ListQuery, mode: str):
    others = [replace(listing, did=Did(f"did:plc:{number}")) for number in range(7)]
    index = "records_by_time" if listing.collection is None else "records_by_collection"
    for group in ([listing], [*others, listing]):
        plan = prepared_plan(database, mode, *listing_query(group))
        steps = [("Subquery Scan", None), ("Function Scan", None), ("Limit", None), ("Index Scan", index)]
        assert nodes(plan) == steps
        assert blocks(plan) <= PAGE_BLOCKS * len(group)


SEQUENCES = list(range(1000, 1000 + PAGE))
OTHERS = {
    "find a record": (
        records.FIND_ALL,
        (json.dumps([{"did": ALICE, "collection": POST, "rkey": f"{number:026}"} for number in range(1, PAGE)]),),
    ),
    "scan all records": (records._SCAN, (ALICE, POST, "0" * 24 + "10", PAGE)),
    "find a reply": (records._FIND_REPLY, (ALICE, "0" * 24 + "10", START)),
    "purge replies": (records._PURGE_REPLIES, (later(10), PAGE)),
    "find an asset": (media._FIND, ("0" * 24 + "10",)),
    "claim an asset": (media._CLAIM, ("0" * 64, "0" * 24 + "10")),
    "expire assets": (media._EXPIRE, (later(200), PAGE)),
    "unpublished entries": (outbox._WAITING, (PAGE,)),
    "read the op log": (outbox.read_query(""), (50_000, PAGE)),
    "read the events of records": (outbox.read_query("cdv.records."), (50_000, PAGE)),
    "read the events of media": (outbox.read_query("cdv.media."), (5_000, PAGE)),
    "mark published": (
        outbox._MARK,
        {
            "owner": "relay",
            "acknowledged": json.dumps(
                [{"sequence": it, "stream_sequence": it, "published_at": str(START)} for it in SEQUENCES]
            ),
            "marks": json.dumps([{"name": "RA_RECORDS", "created": "today", "last_sequence": 1, "gaps": 0}]),
        },
    ),
    "requeue": (outbox._REQUEUE, {"owner": "relay", "sequences": SEQUENCES}),
}


@both_plans
@pytest.mark.parametrize(("query", "parameters"), OTHERS.values(), ids=OTHERS)
def test_every_other_statement_uses_an_index(database, query: str, parameters: Any, mode: str):
    plan = prepared_plan(database, mode, query, parameters)
    assert {table for kind, table in nodes(plan) if kind == "Seq Scan"} <= {"relay_lease"}  # which has one row
    assert blocks(plan) <= 20 * PAGE


def test_the_backlog_is_a_limited_index_only_scan(database):
    plan = prepared_plan(database, "auto", outbox._BACKLOG, ())
    assert ("Index Only Scan", "op_log_unpublished") in nodes(plan)
    assert "Limit" in {kind for kind, _ in nodes(plan)}  # without a broker the backlog grows without bound
    assert blocks(plan) <= 30
