"""The data in the vault: posts of creators, stored as if they had been created one by one."""

from __future__ import annotations

import json
from typing import Any

import psycopg

COLLECTION = "com.registryaccord.feed.post"
CREATORS = 10_000
TEXT = "An ordinary post: one thought, a name, a place, nothing to be escaped. " * 2
# A DID is `did:plc:bench` and eight digits. The same in Python and, over a number `n`, in SQL.
DID_SQL = "('did' || chr(58) || 'plc' || chr(58) || 'bench' || lpad(({n})::text, 8, '0'))"
HOT = 0  # the creator with far more records than any other


def did(number: int) -> str:
    return f"did:plc:bench{number:08d}"


def rkey(n: int) -> str:
    return f"01BENCH{n:019d}"


def post(number: int) -> dict[str, Any]:
    return {"text": TEXT, "createdAt": "2026-11-24T02:53:29.331656Z", "authorDid": did(number)}


VALUE = json.dumps(post(HOT), separators=(",", ":"))


def fill(dsn: str, *, creators: int, each: int, hot: int = 0, after: tuple[int, int] = (0, 0)) -> None:
    """Store `each` records for every creator, and `hot` for the hot one; a second apart, the last of them now.

    `after`: the numbers of creators and of hot records that are stored already.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")  # only while filling
        connection.execute(
            f"INSERT INTO accounts (did, created_at) SELECT {DID_SQL.format(n='n')}, now()"
            " FROM generate_series(0, %s) n ON CONFLICT DO NOTHING",
            (creators,),
        )
        _records(connection, "generate_series(%s + 1, %s) creator, generate_series(1, %s) n", after[0], creators, each)
        if hot:
            _records(connection, f"(SELECT {HOT} AS creator) one, generate_series(%s + 1, %s) n", after[1], hot)
        connection.execute("VACUUM (ANALYZE) records")
        connection.execute("CHECKPOINT")


def _records(connection: psycopg.Connection[Any], source: str, *numbers: int) -> None:
    connection.execute(
        "INSERT INTO records (did, collection, rkey, cid, value, indexed_at, schema_version, created_at)"
        f" SELECT {DID_SQL.format(n='creator')}, '{COLLECTION}', '01BENCH' || lpad(n::text, 19, '0'),"
        f" 'bafyrei' || lpad(creator || 'z' || n, 52, 'a'), '{VALUE}'::json,"
        f" now() - (%s - n) * interval '1 second', '1.0.0', NULL FROM {source}",
        (numbers[-1], *numbers),
    )
