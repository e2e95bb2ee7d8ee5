"""Pages of large records: Postgres sends no more than fit into a page, in a bounded number of queries."""

import asyncio
from typing import Any

import pytest

from cdv_adapters.database.postgres import Parameters, PostgresOptions
from cdv_adapters.database.postgres_migration import migrate
from cdv_core.domain.limits import PAGE_MAX_BYTES, RECORD_MAX_BYTES
from cdv_core.domain.records import ListQuery, ListResult
from cdv_core.errors import Unavailable
from conformance.ports.stores import ALICE, BOB, a_record, its_event
from tests.adapters.postgres_stores import open_postgres

QUERIES_MAX = 7  # 100, halved repeatedly


async def test_a_listing_that_times_out_does_not_fail_concurrent_ones(postgres_dsn: str, monkeypatch):
    await migrate(postgres_dsn)
    async with open_postgres(postgres_dsn, PostgresOptions(statement_seconds=0.2)) as stores:
        query_rows = stores.database.rows

        async def slow_for_bob(query: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
            return await query_rows("SELECT pg_sleep(20)" if BOB in str(parameters) else query, parameters)

        record = a_record(1)
        await stores.records.create(record, its_event(record))
        monkeypatch.setattr(stores.database, "rows", slow_for_bob)
        listings = (stores.records.list(ListQuery(did, 10)) for did in (ALICE, BOB, ALICE))
        first, slow, last = await asyncio.gather(*listings, return_exceptions=True)

    assert isinstance(slow, Unavailable)
    assert [len(page.records) for page in (first, last) if isinstance(page, ListResult)] == [1, 1]


@pytest.mark.parametrize("large", [5, 100])
async def test_a_page_that_starts_with_large_records_takes_a_bounded_number_of_queries(
    postgres_dsn: str, monkeypatch, large: int
):
    await migrate(postgres_dsn)
    async with open_postgres(postgres_dsn) as stores:
        for number in range(101):
            size = RECORD_MAX_BYTES - 20 if number > 100 - large else 1
            record = a_record(number, value={"text": "x" * size})
            await stores.records.create(record, its_event(record))
        query_rows, sizes = stores.database.rows, list[int]()

        async def counted(query: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
            rows = await query_rows(query, parameters)
            sizes.append(sum(len(record) for _, page, *_ in rows for record in page or ()))
            return rows

        monkeypatch.setattr(stores.database, "rows", counted)
        found = await stores.records.list(ListQuery(ALICE, 100))

    assert found.more
    assert found.records
    assert len(sizes) <= QUERIES_MAX
    assert max(sizes) <= PAGE_MAX_BYTES
