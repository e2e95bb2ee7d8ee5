"""A process that writes to a SQLite file and reports acknowledged writes; it may run beside others and be killed."""

from __future__ import annotations

import asyncio
import multiprocessing
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.records.sqlite import SqliteRecordStore
from cdv_core.domain.canonical import canonical_record
from cdv_core.domain.events import Event, record_created
from cdv_core.domain.idempotency import IdempotencyKey
from cdv_core.domain.identifiers import Did, Nsid, RecordKey, RecordUri
from cdv_core.domain.records import NewRecord
from cdv_core.ports.records import IdempotentReply

NOW = datetime(2026, 11, 24, 2, 53, 29, tzinfo=UTC)


def write_number(number: int) -> tuple[NewRecord, Event, IdempotentReply]:
    """Return everything that is written under `number`; deterministic, so that every process agrees."""
    did, rkey = f"did:plc:{number % 7}", f"{number:026d}"
    canonical = canonical_record({"text": "x" * (number * 37 % 9000)})
    uri = RecordUri(Did(did), Nsid("com.registryaccord.feed.post"), RecordKey(rkey))
    record = NewRecord(uri, canonical.cid, canonical.json, NOW + timedelta(microseconds=number), "1.0.0")
    retryable = IdempotentReply(IdempotencyKey(rkey), rkey.encode(), rkey.encode(), NOW + timedelta(days=1))
    return record, record_created(record, event_id=rkey, correlation_id="test"), retryable


def start_writer(path: Path, first: int, count: int) -> tuple[BaseProcess, Connection]:
    """Start writing `count` records from number `first` on, eight at a time.

    The connection yields None once the process runs, then each acknowledged number.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])  # so that each process starts at once
    reading, writing = processes.Pipe(duplex=False)
    process = processes.Process(target=_run, args=(writing, path, first, count), daemon=True)
    process.start()
    writing.close()
    return process, reading


def _run(acknowledge: Connection, path: Path, first: int, count: int) -> None:
    acknowledge.send(None)
    numbers = iter(range(first, first + count))

    async def write_all() -> None:
        async with SqliteDatabase(path) as database:
            records = SqliteRecordStore(database)

            async def write() -> None:
                for number in numbers:
                    await records.create(*write_number(number))
                    acknowledge.send(number)

            await asyncio.gather(*(write() for _ in range(8)))

    asyncio.run(write_all())
