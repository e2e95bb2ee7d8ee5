"""The same scenarios on a vault of every size: the cost of a request must not depend on the number of records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from statistics import median

from tests.load.bench.data import CREATORS, HOT, did, fill
from tests.load.bench.open_loop import Paced, open_loop
from tests.load.bench.requests import create, get, listing
from tests.load.bench.results import GrowthRow
from tests.load.bench.scenarios import middle, sample
from tests.load.bench.stack import Stack
from tests.load.bench.wrk import Prepared, closed_loop

SIZES = (10_000, 1_000_000, 10_000_000)
_EACH = 150  # records of an ordinary creator; the hot one has a tenth of all
_RATE = 400  # a second, at every size
_SECONDS, _ROUNDS, _CONNECTIONS = 3, 3, 16


def growth(it: Stack, sizes: tuple[int, ...], log: Callable[[str], None]) -> list[GrowthRow]:
    """Fill the vault, which must be empty, step by step and measure at each size."""
    rows, creators, hot = [], 0, 0
    for records in sizes:
        log(f"filling the vault up to {records:,} records")
        more, hotter = records * 9 // 10 // _EACH, records // 10
        fill(it.postgres, creators=more, each=_EACH, hot=hotter, after=(creators, hot))
        creators, hot = more, hotter
        for name, prepared in _scenarios(it, creators, hot):
            rows.append(row := _measured(it, name, prepared, records))
            log(
                f"{name}, {records:,} records: p95 {row.p95:.1f} ms, {row.service_cpu + row.database_cpu:.0f} us of CPU"
            )
    return rows


def _scenarios(it: Stack, creators: int, hot: int) -> list[tuple[str, Prepared]]:
    readers, writers = sample(creators), sample(CREATORS, 500)
    deep = middle(it.postgres, hot).encode()
    requests: dict[str, Sequence[bytes | tuple[bytes, bytes]]] = {
        "create": [create(it.token(did(number)), number) for number in writers],
        "create, one DID": [create(it.token(did(HOT)), HOT)],
        "get": [get(number, 1 + number % _EACH) for number in readers],
        "list 25": [listing(number, 25) for number in readers],
        "list 25, one DID": [listing(HOT, 25)],
        "list 25, one DID, deep page": [listing(HOT, 25, cursor=deep)],
    }
    return [(name, Prepared(it.folder / name.replace(" ", "-"), some)) for name, some in requests.items()]


def _measured(it: Stack, name: str, prepared: Prepared, records: int) -> GrowthRow:
    closed_loop(it.url, prepared, connections=_CONNECTIONS, seconds=1)  # warm
    assert it.database is not None, "what grows is in Postgres"
    before = it.service.cpu_seconds(), it.database.cpu_seconds()
    closed = closed_loop(it.url, prepared, connections=_CONNECTIONS, seconds=_SECONDS)
    service = (it.service.cpu_seconds() - before[0]) / closed.requests * 1e6
    database = (it.database.cpu_seconds() - before[1]) / closed.requests * 1e6
    rounds: list[Paced] = [
        asyncio.run(open_loop(it.port, prepared, rate=_RATE, seconds=_SECONDS)) for _ in range(_ROUNDS)
    ]
    if closed.refused or closed.broken or any(set(one.answers) != {200} for one in rounds):
        raise SystemExit(f"{name}: not everything was answered: nothing to measure")
    return GrowthRow(
        name, records, median(one.p50 for one in rounds), median(one.p95 for one in rounds), service, database
    )
