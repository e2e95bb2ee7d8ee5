"""Writers that share a file, and writers that are killed: what was acknowledged is there, whole."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from cdv_adapters.database.sqlite import SqliteDatabase
from cdv_adapters.outbox.sqlite import SqliteOutbox
from cdv_adapters.records.sqlite import SqliteRecordStore
from conformance.ports.stores import as_stored
from tests.adapters.sqlite_writer import write_number

ROOT = Path(__file__).parents[2]


def start_writer(path: Path, first: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.adapters.sqlite_writer", str(path), str(first), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


async def check(path: Path, acknowledged: set[int]) -> None:
    """Every acknowledged write is there as it was written, and no write is there in part."""
    async with SqliteDatabase(path) as database:
        records = SqliteRecordStore(database)
        stored = {int(record.uri.rkey): record async for record in records.scan()}
        told = [entry.event for entry in await SqliteOutbox(database).read(0, 1_000_000)]
        replies = await database.read(lambda it: it.execute("SELECT key, fingerprint, reply FROM replies").fetchall())

    assert acknowledged <= set(stored)
    written = {number: write_number(number) for number in stored}
    assert stored == {number: as_stored(record) for number, (record, _, _) in written.items()}
    assert {int(event.event_id): event for event in told} == {
        number: event for number, (_, event, _) in written.items()
    }
    assert len(told) == len(stored)
    assert sorted(replies) == sorted((it.key, it.fingerprint, it.reply) for _, _, it in written.values())


async def test_processes_that_write_to_one_file_at_once_lose_nothing(tmp_path: Path):
    path = tmp_path / "vault.sqlite3"
    writers = [start_writer(path, 1000 * place, 150) for place in range(3)]

    outputs = [writer.communicate()[0] for writer in writers]

    assert [writer.returncode for writer in writers] == [0, 0, 0]
    acknowledged = {int(line) for output in outputs for line in output.splitlines()[1:]}
    assert len(acknowledged) == 450
    await check(path, acknowledged)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path):
    path = tmp_path / "vault.sqlite3"
    acknowledged: set[int] = set()

    for killed in range(10):
        writer = start_writer(path, 100_000 * killed, 100_000)
        assert writer.stdout is not None
        # The first is killed while it makes the file, the others after some acknowledgement.
        lines = [writer.stdout.readline() for _ in range(1 + killed * random.randint(1, 20))]
        writer.kill()
        # What it had said and was not read yet counts; a line that it could not finish does not.
        lines += writer.stdout.read().splitlines(keepends=True)
        writer.stdout.close()
        assert writer.wait() < 0
        acknowledged |= {int(line) for line in lines if line.endswith("\n") and line != "started\n"}

    assert acknowledged
    await check(path, acknowledged)
