"""Pages of large records: Postgres sends no more of them than have room, and is asked a bounded number of times."""

from typing import Any

import pytest

from cdv_adapters.database.postgres import Parameters, migrate
from cdv_core.domain.limits import PAGE_MAX_BYTES, RECORD_MAX_BYTES
from cdv_core.domain.records import Listing
from conformance.ports.stores import ALICE, a_record, its_event
from tests.adapters.postgres_stores import open_postgres

QUERIES_MAX = 7  # half of 100, again and again


@pytest.mark.parametrize("large", [5, 100])
async def test_a_page_that_large_records_head_is_found_in_few_queries(postgres_dsn: str, monkeypatch, large: int):
    await migrate(postgres_dsn)
    async with open_postgres(postgres_dsn) as stores:
        for number in range(101):
            size = RECORD_MAX_BYTES - 20 if number > 100 - large else 1
            record = a_record(number, value={"text": "x" * size})
            await stores.records.create(record, its_event(record))
        ask, sizes = stores.database.rows, list[int]()

        async def counted(query: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
            rows = await ask(query, parameters)
            sizes.append(sum(len(record) for _, page, *_ in rows for record in page or ()))
            return rows

        monkeypatch.setattr(stores.database, "rows", counted)
        found = await stores.records.list(Listing(ALICE, 100))

    assert found.more
    assert found.records
    assert len(sizes) <= QUERIES_MAX
    assert max(sizes) <= PAGE_MAX_BYTES
