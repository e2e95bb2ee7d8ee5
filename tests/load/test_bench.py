"""The benchmark's arithmetic: what it counts, and which requests a stall delays."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import psycopg
import pytest

from cdv_adapters.database.postgres_migration import migrate
from tests.load.bench import compare
from tests.load.bench.ceiling import create_ceiling, get_ceiling, list_ceiling
from tests.load.bench.data import HOT, did, fill
from tests.load.bench.open_loop import Paced, all_once, open_loop
from tests.load.bench.report import write_report
from tests.load.bench.results import NO_BROKER, GrowthRow, MediaRow, PacedRow, Round, Row, Run
from tests.load.bench.wrk import Closed, Prepared
from tests.servers.process import free_port

ANSWER = b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """A server that responds at once, apart from a stall at one request."""

    def __init__(self, stall_at: int = -1, stall_seconds: float = 0.0, status: int = 200) -> None:
        self.requests: list[bytes] = []
        self._stall = (stall_at, stall_seconds)
        self._status = status
        self._free = asyncio.Event()
        self._free.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            self.requests.append(request.strip())
            if len(self.requests) == self._stall[0]:
                self._free.clear()
                await asyncio.sleep(self._stall[1])
                self._free.set()
            await self._free.wait()
            writer.write(ANSWER % self._status)
        writer.close()
        await writer.wait_closed()

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()


async def test_an_open_loop_counts_a_stall_for_every_request_due_during_it(tmp_path: Path):
    server = Server(stall_at=20, stall_seconds=0.3)
    async with server as port:
        paced = await open_loop(port, Prepared(tmp_path / "all", [b"one\n", b"two\n"]), rate=200, seconds=0.5)
    assert (paced.requests, paced.answers) == (100, {200: 100})
    # 60 requests were due within the 0.3 s: the worst waited all of it, and the median a good part.
    assert paced.max > 280
    assert paced.p50 > 50
    assert sorted(server.requests) == [b"one"] * 50 + [b"two"] * 50


async def test_every_request_is_sent_once_over_several_connections():
    server = Server(status=409)
    async with server as port:
        paced = await all_once(port, [b"%d\n" % number for number in range(50)], connections=4)
    assert (paced.requests, paced.answers) == (50, {409: 50})
    assert sorted(map(int, server.requests)) == list(range(50))


async def test_all_percentiles_of_a_single_request_are_equal():
    async with Server() as port:
        alone = await all_once(port, [b"alone\n"], connections=4)
    assert (alone.requests, alone.answers) == (1, {200: 1})
    assert alone.p50 == alone.p95 == alone.p99 == alone.max


async def test_percentiles_of_few_requests_do_not_exceed_the_maximum():
    async with Server(stall_at=5, stall_seconds=0.2) as port:
        few = await all_once(port, [b"%d\n" % number for number in range(5)], connections=1)
    assert few.p95 <= few.p99 <= few.max


async def test_requests_to_an_unreachable_server_are_counted(tmp_path: Path):
    prepared = Prepared(tmp_path / "all", [b"one\n"])
    paced = await open_loop(free_port(), prepared, rate=100, seconds=0.1)
    assert paced.answers == {0: 10}


def test_a_request_in_two_parts_gets_a_new_key_each_time(tmp_path: Path):
    prepared = Prepared(tmp_path / "all", [(b"Key: ", b"\n"), b"whole"])
    assert len({prepared.request(number) for number in range(0, 20, 2)}) == 10
    assert prepared.request(1) == b"whole"
    assert (tmp_path / "all").read_bytes() == b"5 1\nKey: \n5 0\nwhole"


def run(*per_second: float) -> Run:
    closed = [Closed(int(rate * 2), 2.0, 1.0, 2.0, 3.0, 4.0, 0, 0) for rate in per_second]
    rounds = [Round(measured, 200.0, 100.0, 50.0) for measured in closed]
    made = Run("a machine", {"python": "3.11"}, {"CDV_WORKERS": "1"}, rows=[Row("create", 64, rounds)])
    made.paced = [PacedRow("create", Paced(50, 9, 1.0, 1.0, 2.0, 3.0, 4.0, {200: 9}))]
    made.growth = [GrowthRow("get", records, 1.0, p95, 50.0, 50.0) for records, p95 in ((10, 2.0), (1_000, 3.0))]
    made.media = [MediaRow(2**20, 50.0, 100.0, 0.5, 10.0, 20.0)]
    made.variants = {NO_BROKER: [Row("create", 64, [Round(closed[0], 100.0, 100.0, 50.0)])]}
    return made


def test_the_report_shows_what_was_measured(tmp_path: Path):
    write_report(run(90, 100, 130), tmp_path / "performance.md")
    page = (tmp_path / "performance.md").read_text()
    assert "| create | 64 | 100 | 200 | 0.50 | 1.0 | 2.0 | 3.0 | 100 | 50 |" in page
    assert "| 1 | 50 | 100 | 0.50 | 10 | 20 |" in page
    assert "<svg" in (tmp_path / "performance" / "throughput.svg").read_text()
    assert "| create, two workers, no broker, of the ceiling | at least 0.8 | 0.90 | met |" in page
    assert "| create, of the ceiling | at least 0.8 | 0.50 | **not met** |" in page
    assert "| create at half the peak, p95 ms | at most 15 | 2.00 | met |" in page
    assert "| get, p95 at 1,000 records relative to the fewest | at most 1.2 | 1.50 | **not met** |" in page
    assert "| finalize 1 MiB, of the store alone | at least 0.5 | 0.50 | met |" in page


@pytest.mark.parametrize(
    ("after", "expected"), [((190, 200, 210), "+100.0%"), ((99, 101, 110), "+1.0%")], ids=["faster", "noise"]
)
def test_a_comparison_distinguishes_a_change_from_noise(after, expected, tmp_path, monkeypatch, capsys):
    for name, results in (("a", run(90, 100, 110)), ("b", run(*after))):
        (tmp_path / name).write_bytes(msgspec.json.encode(results))
    monkeypatch.setattr("sys.argv", ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    compare.main()
    line = capsys.readouterr().out.splitlines()[1]
    assert expected in line
    assert ("faster" in line) == (after[0] > 110)


def test_the_statements_of_the_ceiling_store_what_they_should(postgres_dsn: str):
    asyncio.run(migrate(postgres_dsn))
    fill(postgres_dsn, creators=10, each=30)
    writes = [
        create_ceiling(postgres_dsn, connections=2, seconds=1, hot=hot, once=once)
        for hot, once in ((False, False), (True, True))
    ]
    assert min(writes) > 0
    with psycopg.connect(postgres_dsn) as connection:
        counts = connection.execute(
            "SELECT (SELECT count(*) - 300 FROM records), (SELECT count(*) FROM op_log),"
            " (SELECT count(*) FROM replies), (SELECT count(*) FROM records WHERE did = %s)",
            (did(HOT),),
        ).fetchone()
    assert counts is not None
    stored, logged, replies, hot = counts
    assert stored == logged > replies == hot > 0
    assert list_ceiling(postgres_dsn, limit=25, connections=2, seconds=1, creators=10) > 0
    assert get_ceiling(postgres_dsn, connections=2, seconds=1, creators=10, each=30) > 0
