"""The scenarios: requests to the service, and the ceiling that the database alone sets for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import psycopg

from cdv_core.domain.cursors import Cursor
from cdv_core.domain.times import format_time
from tests.load.bench.ceiling import create_ceiling, get_ceiling, list_ceiling
from tests.load.bench.data import CREATORS, HOT, did
from tests.load.bench.requests import create, get, listing
from tests.load.bench.stack import Stack
from tests.load.bench.wrk import Prepared

_WRITERS = 10_000
_READS = 2_000  # distinct requests, which are then repeated
MIXED = "nine reads to a write"


@dataclass(frozen=True)
class Filling:
    """The records in the vault: `each` for every creator from 1 to `creators`, and `hot` for the hot one."""

    creators: int
    each: int
    hot: int


@dataclass(frozen=True)
class Scenario:
    """`ceiling`: given connections and seconds, what the database alone does per second; None if not comparable."""

    name: str
    prepared: Prepared
    ceiling: Callable[[int, float], float] | None = None
    refused: bool = False


def scenarios(it: Stack, folder: Path, filling: Filling) -> Iterator[Scenario]:
    """Yield the scenarios; each is prepared when it is needed."""
    rng = random.Random(1)
    writers = [rng.randint(1, CREATORS) for _ in range(_WRITERS)]
    readers = [rng.randint(1, filling.creators) for _ in range(_READS)]
    tokens = {number: it.token(did(number)) for number in {HOT, *writers}}
    creates = [create(tokens[number], number) for number in writers]
    lists = {limit: [listing(number, limit) for number in readers] for limit in (25, 100)}
    gets = [get(number, rng.randint(1, filling.each)) for number in readers]
    half_way = middle(it.postgres, filling.hot)
    since, until = format_time(half_way.indexed_at), "2999-01-01T00:00:00Z"

    def scenario(
        name: str,
        requests: Sequence[bytes | tuple[bytes, bytes]],
        ceiling: Callable[[int, float], float] | None = None,
        *,
        refused: bool = False,
    ) -> Scenario:
        return Scenario(name, Prepared(folder / name.replace(" ", "-"), requests), ceiling, refused)

    def created(*, one: bool = False, keyed: bool = False) -> Callable[[int, float], float]:
        return lambda connections, seconds: create_ceiling(
            it.postgres, connections=connections, seconds=seconds, hot=one, once=keyed
        )

    def listed(limit: int) -> Callable[[int, float], float]:
        return lambda connections, seconds: list_ceiling(
            it.postgres, limit=limit, connections=connections, seconds=seconds, creators=filling.creators
        )

    def got(connections: int, seconds: float) -> float:
        return get_ceiling(
            it.postgres, connections=connections, seconds=seconds, creators=filling.creators, each=filling.each
        )

    yield scenario("create", creates, created())
    yield scenario("create, key", [create(tokens[n], n, keyed=True) for n in writers], created(keyed=True))
    yield scenario("create, one DID", [create(tokens[HOT], HOT)], created(one=True))
    yield scenario("list 25", lists[25], listed(25))
    yield scenario("list 100", lists[100], listed(100))
    yield scenario("list 25, deep page", [listing(HOT, 25, cursor=half_way.encode())])
    yield scenario("list 25, since and until", [listing(n, 25, since=since, until=until) for n in readers])
    yield scenario("get", gets, got)
    reads = cycle([it for pair in zip(gets, lists[25], strict=True) for it in pair])
    yield scenario(MIXED, [it for write in creates[:500] for it in (write, *(next(reads) for _ in range(9)))])
    yield scenario("refused by the schema", [create(tokens[n], n, text=1) for n in writers[:500]], refused=True)
    forged = [create(tokens[n][:-6] + "AAAAAA", n) for n in writers[:500]]
    yield scenario("refused by the token", forged, refused=True)


def embedded(it: Stack, folder: Path) -> Iterator[Scenario]:
    """Yield the scenarios of an embedded vault, which holds only the records that they create."""
    writers = sample(CREATORS, _WRITERS)
    tokens = {number: it.token(did(number)) for number in {HOT, *writers}}
    requests: dict[str, Sequence[bytes | tuple[bytes, bytes]]] = {
        "create": [create(tokens[number], number) for number in writers],
        "create, key": [create(tokens[number], number, keyed=True) for number in writers],
        "create, one DID": [create(tokens[HOT], HOT)],
        "list 25, one DID": [listing(HOT, 25)],
        "list 100, one DID": [listing(HOT, 100)],
    }
    for name, some in requests.items():
        yield Scenario(name, Prepared(folder / name.replace(" ", "-"), some))


def sample(creators: int, count: int = _READS) -> list[int]:
    """Return `count` random creators, the same at each call."""
    rng = random.Random(1)
    return [rng.randint(1, creators) for _ in range(count)]


def middle(dsn: str, hot: int) -> Cursor:
    """Return the cursor half-way through the hot creator's records."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT indexed_at, rkey FROM records WHERE did = %s ORDER BY indexed_at DESC, rkey DESC OFFSET %s LIMIT 1",
            (did(HOT), hot // 2),
        ).fetchone()
    assert row is not None, "the hot creator has records"
    return Cursor(row[0], row[1])
