"""What Postgres alone can do: pgbench executing the statements that the service executes."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from urllib.parse import urlsplit

from cdv_adapters.database.postgres import LOCK_ACCOUNT, LOG_EVENT
from cdv_adapters.records.postgres import find_query, page_query
from tests.load.bench.data import COLLECTION, CREATORS, DID_SQL, HOT, VALUE
from tests.servers.postgres import programs

_ENVELOPE = (
    '{"type":"record.created","version":"1","occurredAt":"2026-11-24T02:53:29.331656Z","correlationId":"0123456789abcdef",'
    '"payload":{"uri":"at://did:plc:bench00000000/com.registryaccord.feed.post/01ARZ3NDEKTSV4RRFFQ69G5FAV","cid":"bafyrei",'
    '"did":"did:plc:bench00000000","collection":"com.registryaccord.feed.post","rkey":"01ARZ3NDEKTSV4RRFFQ69G5FAV",'
    '"schemaVersion":"1.0.0","indexedAt":"2026-11-24T02:53:29.331656Z"}}'
)


_FRESH = "'01' || lpad((:run::bigint * 100000000000 + :client_id::bigint * 100000000 + :n::bigint)::text, 24, '0')"
_WRITE: Mapping[str, str] = {
    "did": DID_SQL.format(n=":d::int"),
    "collection": f"'{COLLECTION}'",
    "rkey": f"({_FRESH})",
    "event_id": f"({_FRESH})",
    "key": f"({_FRESH})",
    "cid": "'bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy'",
    "value": f"'{VALUE}'",
    "envelope": f"'{_ENVELOPE}'",
    "subject": f"'cdv.records.{COLLECTION}.created'",
    "indexed_at": "clock_timestamp()",
    "occurred_at": "clock_timestamp()",
    "expires_at": "clock_timestamp() + interval '1 day'",
    "schema_version": "'1.0.0'",
    "created_at": "NULL",
    "fingerprint": "decode(lpad('', 64, 'ab'), 'hex')",
    "reply": "convert_to(lpad('', 260, 'x'), 'utf8')",
    "traceparent": "NULL",
}
_KEEP_REPLY = """,
kept AS (
    INSERT INTO replies (did, key, fingerprint, reply, expires_at)
    SELECT %(did)s, %(key)s, %(fingerprint)s, %(reply)s, %(expires_at)s FROM turn
    ON CONFLICT (did, key) DO UPDATE
    SET fingerprint = excluded.fingerprint, reply = excluded.reply, expires_at = excluded.expires_at
    WHERE replies.expires_at <= %(indexed_at)s
    RETURNING did
)"""
_STORE = """,
stored AS (
    INSERT INTO records (did, collection, rkey, cid, value, indexed_at, schema_version, created_at)
    SELECT %(did)s, %(collection)s, %(rkey)s, %(cid)s, %(value)s::json, %(indexed_at)s, %(schema_version)s,
        %(created_at)s::timestamptz FROM """
# What the service would execute for each create if it did not commit them in groups.
CREATE = f"WITH{LOCK_ACCOUNT}{_STORE}turn RETURNING did){LOG_EVENT}stored"
CREATE_ONCE = f"WITH{LOCK_ACCOUNT}{_KEEP_REPLY}{_STORE}kept RETURNING did){LOG_EVENT}stored"


def create_ceiling(dsn: str, *, connections: int, seconds: float, hot: bool = False, once: bool = False) -> float:
    """Return how many creates a second Postgres commits by itself."""
    d = str(HOT) if hot else f"random(1, {CREATORS})"
    script = f"\\set n :n + 1\n\\set d {d}\n{_with(CREATE_ONCE if once else CREATE, _WRITE)};\n"
    return _pgbench(dsn, script, connections, seconds)


def list_ceiling(dsn: str, *, limit: int, connections: int, seconds: float, creators: int) -> float:
    """Return how many listings a second Postgres answers by itself: first pages of random creators."""
    query = page_query(
        did=DID_SQL.format(n=":d::int"),
        collection=f"'{COLLECTION}'",
        hidden="ARRAY['com.registryaccord.moderation.flag']",
        since="'-infinity'",
        before_time="'infinity'",
        before_rkey="'~'",
        page=str(limit + 1),
    )
    script = f"\\set d random(1, {creators})\n{_with(query, {})};\n"
    return _pgbench(dsn, script, connections, seconds)


def get_ceiling(dsn: str, *, connections: int, seconds: float, creators: int, each: int) -> float:
    """Return how many single records a second Postgres finds by itself."""
    query = find_query(DID_SQL.format(n=":d::int"), f"'{COLLECTION}'", "'01BENCH' || lpad(:r::text, 19, '0')")
    script = f"\\set d random(1, {creators})\n\\set r random(1, {each})\n{_with(query, {})};\n"
    return _pgbench(dsn, script, connections, seconds)


def _with(statement: str, values: Mapping[str, str]) -> str:
    sql = " ".join(re.sub(r"%\((\w+)\)s", lambda name: f"({values[name[1]]})", statement).split())
    return re.sub(r"'[^']*'", lambda literal: _without_colons(literal[0]), sql)


def _without_colons(literal: str) -> str:
    """Put a literal together from pieces, because pgbench takes a colon before a letter for a variable."""
    harmless = re.sub(r":(?=\w)", ":' || '", literal)
    return literal if harmless == literal else f"({harmless})"


def _pgbench(dsn: str, script: str, connections: int, seconds: float) -> float:
    parts = urlsplit(dsn)
    environment = {
        **os.environ,
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port),
        "PGUSER": parts.username or "",
        "PGPASSWORD": parts.password or "",
    }
    run = int.from_bytes(os.urandom(3)) % 1_000_000  # so that no two runs make the same names
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        command = [str(programs() / "pgbench"), "--no-vacuum", "--protocol=prepared", f"--time={seconds:.0f}"]
        command += [f"--client={connections}", "--jobs=1", f"--file={file.name}", "--define=n=0", f"--define=run={run}"]
        output = subprocess.run(
            [*command, parts.path.removeprefix("/")], env=environment, capture_output=True, text=True, check=False
        )
    found = re.search(r"tps = ([0-9.]+) \(without", output.stdout)
    if output.returncode != 0 or found is None:
        raise RuntimeError(f"pgbench failed: {output.stderr[:500]}")
    return float(found[1])
