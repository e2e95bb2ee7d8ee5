"""`make bench`: measure the service as a user would run it, and compare it with its database and object store alone.

The service, its dependencies and the load generator share one machine. The service and the ceiling (what the database
or the object store alone can do) are measured alternately, for a few seconds each, so that other load on the machine
affects both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from time import monotonic

import msgspec

from tests.load.bench import media
from tests.load.bench.data import fill
from tests.load.bench.growth import SIZES, growth
from tests.load.bench.observability import observability
from tests.load.bench.open_loop import all_once, open_loop
from tests.load.bench.report import write_report
from tests.load.bench.results import NO_BROKER, PacedRow, Round, Row, Run, Soak, new_run
from tests.load.bench.scenarios import MIXED, Filling, Scenario, embedded, scenarios
from tests.load.bench.soak import soak
from tests.load.bench.stack import Stack, stack
from tests.load.bench.wrk import Prepared, closed_loop

_MIB = 1024 * 1024
# spec: listRecords 200 ms, create and finalize 300 ms
_PROMISED_MILLISECONDS = {"create": 300, "create, key": 300, "list 25": 200, "finalize 1 MiB": 300}
_PACED = {"create", "create, key", "list 25"}
_SOAK_SECONDS = 120
_begun = monotonic()


def main() -> None:
    arguments = _arguments()
    quick: bool = arguments.quick
    filling = Filling(1_000, 150, 10_000) if quick else Filling(2_000, 150, 100_000)
    seconds, rounds, connections = (2, 2, [64]) if quick else (3, 3, [1, 16, 64])
    settings = {"CDV_WORKERS": str(arguments.workers), **dict(it.split("=", 1) for it in arguments.set)}
    run = new_run(
        {
            "arguments": " ".join(sys.argv[1:]),
            **settings,
            "filled": f"{filling.creators} creators x {filling.each}, one with {filling.hot}",
        }
    )

    def chosen(scenario: Scenario) -> bool:
        return not arguments.only or any(scenario.name.startswith(name) for name in arguments.only)

    with stack(settings) as it:
        _log(f"filling the vault with {filling.creators * filling.each + filling.hot} records")
        fill(it.postgres, creators=filling.creators, each=filling.each, hot=filling.hot)
        for scenario in filter(chosen, scenarios(it, it.folder, filling)):
            if not run.rows:
                _verify_tokens(it, scenario)
            it.settle()
            for number in connections:
                run.rows.append(_row(it, scenario, number, seconds, rounds if number == connections[-1] else 1))
            if scenario.name in _PACED:
                run.paced.append(_paced(it, scenario, run.rows[-1], seconds * (2 if quick else 5)))
            if scenario.name == MIXED and arguments.soak:
                run.soak = _soak(it, scenario, arguments.soak)
        run.resident_mib = it.service.resident_mib()
        if not arguments.only or "finalize" in arguments.only:
            for size_mib, count in ((1, 60 if quick else 200), (10, 10 if quick else 40)):
                _media(it, run, size_mib, count)
    if arguments.variants:
        with stack(settings | {"CDV_WORKERS": "2"}) as it:
            _log("again with two workers")
            fill(it.postgres, creators=filling.creators, each=filling.each, hot=filling.hot)
            found = filter(chosen, scenarios(it, it.folder, filling))
            compared = (scenario for scenario in found if scenario.ceiling)
            run.variants["two workers"] = _rows(it, compared, seconds, rounds)
        with stack(settings | {"CDV_WORKERS": "2", "CDV_NATS_URL": ""}) as it:
            _log("again with two workers and no broker")
            fill(it.postgres, creators=filling.creators, each=filling.each, hot=filling.hot)
            found = filter(chosen, scenarios(it, it.folder, filling))
            creates = (scenario for scenario in found if scenario.name.startswith("create"))
            run.variants[NO_BROKER] = _rows(it, creates, seconds, rounds)
        with stack(settings, embedded=True) as it:
            _log("again embedded, on SQLite")
            found = filter(chosen, embedded(it, it.folder))
            run.variants["embedded, on SQLite"] = _rows(it, found, seconds, rounds)
    if arguments.observability:
        with stack(settings) as it:
            run.observed = observability(it, _log)
    if arguments.growth:
        with stack(settings) as it:
            run.growth = growth(it, tuple(arguments.growth), _log)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1))
    _log(f"wrote {arguments.json}")
    if arguments.report:
        write_report(run, arguments.report)
        _log(f"wrote {arguments.report}")
    for measured in run.paced:
        promised = _PROMISED_MILLISECONDS.get(measured.scenario)
        if promised is not None and measured.paced.p95 > promised:
            raise SystemExit(f"{measured.scenario}: p95 {measured.paced.p95:.0f} ms at half the peak, not {promised}")
    print("p95 at half the peak: " + ", ".join(f"{row.scenario} {row.paced.p95:.1f} ms" for row in run.paced))


def _verify_tokens(it: Stack, scenario: Scenario) -> None:
    """Send each request once, so that all tokens are verified and cached, as in a service that has run for a while.

    Needed before the first scenario only: the others have the same creators.
    """
    prepared = scenario.prepared
    requests = [prepared.request(number) for number in range(len(prepared.requests))]
    asyncio.run(all_once(it.port, requests, connections=64))


def _rows(it: Stack, found: Iterable[Scenario], seconds: int, rounds: int) -> list[Row]:
    rows: list[Row] = []
    for scenario in found:
        if not rows:
            _verify_tokens(it, scenario)
        rows.append(_row(it, scenario, 64, seconds, rounds))
    return rows


def _row(it: Stack, scenario: Scenario, connections: int, seconds: int, rounds: int) -> Row:
    it.wait_until_published()  # the backlog of the previous scenario must not count here
    closed_loop(it.url, scenario.prepared, connections=connections, seconds=1)  # warm
    measured = []
    for _ in range(rounds):
        before = it.service.cpu_seconds(), it.database.cpu_seconds() if it.database else 0.0
        closed = closed_loop(it.url, scenario.prepared, connections=connections, seconds=seconds)
        service = (it.service.cpu_seconds() - before[0]) / closed.requests * 1e6
        database = (it.database.cpu_seconds() - before[1]) / closed.requests * 1e6 if it.database else 0.0
        if closed.broken or (closed.refused != 0) != scenario.refused:
            raise SystemExit(f"{scenario.name}: {closed.refused} refused, {closed.broken} broken: nothing to measure")
        ceiling = scenario.ceiling(connections, seconds) if scenario.ceiling else None
        measured.append(Round(closed, ceiling, service, database))
    row = Row(scenario.name, connections, measured)
    against = "" if row.ratio is None else f", {row.ratio:.2f} of the database's {row.ceiling:,.0f}"
    _log(f"{row.scenario}, {connections} connections: {row.figure('per_second'):,.0f} a second{against}")
    return row


def _paced(it: Stack, scenario: Scenario, peak: Row, seconds: int) -> PacedRow:
    rate = peak.figure("per_second") / 2
    paced = asyncio.run(open_loop(it.port, scenario.prepared, rate=rate, seconds=seconds))
    _log(f"{scenario.name} at {rate:,.0f} a second: p50 {paced.p50:.1f}, p95 {paced.p95:.1f}, p99 {paced.p99:.1f} ms")
    return PacedRow(scenario.name, paced)


def _soak(it: Stack, scenario: Scenario, seconds: int) -> Soak:
    _log(f"soaking for {seconds} s")
    found = soak(it, scenario.prepared, seconds)
    _log(
        f"{found.requests:,} requests: {found.first:.0f} MiB at first, {found.last:.0f} at last,"
        f" {found.most:.0f} at most; {found.slope:+.2f} MiB a million requests"
    )
    return found


def _media(it: Stack, run: Run, size_mib: int, count: int) -> None:
    _log(f"uploading {2 * count} assets of {size_mib} MiB")
    at_once = media.upload(it, count, size_mib * _MIB)
    paced = media.upload(it, count, size_mib * _MIB)
    row = media.finalize_in_turn(it, at_once, size_mib * _MIB)
    run.media.append(row)
    _log(f"finalize {size_mib} MiB: {row.finalized:.0f} a second, {row.ratio:.2f} of the store's {row.store_alone:.0f}")
    prepared = Prepared(it.folder / f"finalize-{size_mib}", paced)
    half = asyncio.run(open_loop(it.port, prepared, rate=row.finalized / 2, seconds=2 * count / row.finalized))
    run.paced.append(PacedRow(f"finalize {size_mib} MiB", half))
    _log(f"finalize {size_mib} MiB at {half.rate:.0f} a second: p95 {half.p95:.1f} ms; {half.answers}")


def _log(what: str) -> None:
    print(f"{monotonic() - _begun:6.0f} s  {what}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes, with more noise")
    parser.add_argument("--only", action="append", default=[], help="scenarios with this prefix; finalize: media")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--all", action="store_true", help="all measurements: twenty minutes")
    parser.add_argument("--variants", action="store_true", help="also with two workers, with no broker, embedded")
    parser.add_argument("--observability", action="store_true", help="also the cost of metrics, logs and traces")
    parser.add_argument("--growth", type=int, nargs="*", metavar="RECORDS", help=f"also by size; default: {SIZES}")
    parser.add_argument("--soak", type=int, default=0, metavar="SECONDS", help="also measure memory under load")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the service")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="the file for the figures")
    parser.add_argument("--report", type=Path, help="a Markdown file to write, with plots beside it")
    arguments = parser.parse_args()
    if arguments.all:
        arguments.variants = arguments.observability = True
        arguments.growth, arguments.soak = [], _SOAK_SECONDS
    if arguments.growth == []:
        arguments.growth = SIZES
    return arguments


if __name__ == "__main__":
    main()
