"""The report: a page of tables, and plots beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from tests.load.bench.results import NO_BROKER, GrowthRow, Row, Run

_TEXT: Final = """# Performance

Measured by `make bench`, which wrote this page; its arguments are at the end, and `--report docs/performance.md --all`
measures everything. Service, database, object store, broker and load generator share one machine, so the figures are
for comparison with each other and not for sizing.
Every write is synced to disk: `fsync` and `synchronous_commit` are on, and the broker syncs each message. The ceiling
is pgbench on the same database, executing for each request the statement that does its work (for a create: the one that
the service would use without [group commit](adr/011-group-commit.md)). Service and ceiling are measured alternately,
for a few seconds each. Unlike the service, the ceiling publishes no events; creates without a broker are therefore
measured as well. Before each scenario the database is vacuumed and checkpointed, so that it is not slowed by work that
the previous one has left. CPU is processor time per request. The optimisations, the effect of each, and attempts
without effect are described in [ADR 011](adr/011-group-commit.md) and [ADR 012](adr/012-fewer-instructions.md).

"""
_CREATE_RATIO: Final = 0.8
_RATIOS: Final = (("create", _CREATE_RATIO), ("list 25", 0.5), ("list 100", 0.5))
_P95: Final = (("create", 15), ("list 25", 10), ("finalize 1 MiB", 60))
_THROUGHPUT: Final = "connections|a second|ceiling|ratio|p50 ms|p95 ms|p99 ms|service CPU us|database CPU us"


def write_report(run: Run, path: Path) -> None:
    """Write the page, and the plots into a folder of its name beside it."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    busiest = max(row.connections for row in run.rows)
    compared = [row for row in run.rows if row.connections == busiest and row.ceiling]
    (folder / "throughput.svg").write_text(
        _bars(
            f"Requests a second over {busiest} connections",
            [(row.scenario, row.figure("per_second"), row.ceiling or 0) for row in compared],
            ("service", "pgbench alone"),
        ),
        encoding="utf-8",
    )
    (folder / "latency.svg").write_text(
        _bars(
            "Milliseconds at half the peak",
            [(it.scenario, it.paced.p95, it.paced.p99) for it in run.paced],
            ("p95", "p99"),
        ),
        encoding="utf-8",
    )
    page = [
        _TEXT,
        f"![Throughput]({folder.name}/throughput.svg)\n\n![Latency]({folder.name}/latency.svg)\n\n",
        *_goals(run),
        "## Throughput, closed loop\n\n",
        _throughput(run.rows),
        "\n## Latency, open loop at half the peak\n\n",
        "Measured from the time when a request was due, even if it was sent later.\n\n",
        _table(
            ["", "rate", "p50 ms", "p95 ms", "p99 ms", "max ms"],
            (
                [
                    it.scenario,
                    f"{it.paced.rate:,.0f}",
                    *(f"{getattr(it.paced, name):.1f}" for name in ("p50", "p95", "p99", "max")),
                ]
                for it in run.paced
            ),
        ),
        "\n## Finalising media\n\nStore alone: a get and a copy in a versioned, encrypted bucket, in turn.\n\n",
        _table(
            ["MiB", "a second", "store alone", "ratio", "p50 ms", "p95 ms"],
            (
                [
                    f"{it.size_bytes // 2**20}",
                    f"{it.finalized:.0f}",
                    f"{it.store_alone:.0f}",
                    f"{it.ratio:.2f}",
                    f"{it.p50:.0f}",
                    f"{it.p95:.0f}",
                ]
                for it in run.media
            ),
        ),
        *_variants(run),
        *_growth(run, folder),
        *_soak(run),
        *_observed(run),
        "\n## Environment\n\n",
        f"- {run.machine}\n",
        f"- {', '.join(f'{name} {number}' for name, number in run.versions.items())}\n",
        f"- {', '.join(f'{name}: {value}' for name, value in run.settings.items())}\n",
        f"- resident memory afterwards, MiB per process: {', '.join(f'{it:.0f}' for it in run.resident_mib)}\n",
    ]
    path.write_text("".join(page), encoding="utf-8")


def _goals(run: Run) -> Iterator[str]:
    """Yield the goals, which are for two shared cores, and the measured figures."""
    busiest = {row.scenario: row for row in sorted(run.rows, key=lambda row: row.connections)}
    paced = {row.scenario: row.paced for row in run.paced}
    media = {row.size_bytes: row for row in run.media}
    goals: list[tuple[str, float | None, float, bool]] = [
        *((f"create, {NO_BROKER}, of the ceiling", row.ratio, _CREATE_RATIO, True)
          for row in run.variants.get(NO_BROKER, []) if row.scenario == "create"),
        *((f"{name}, of the ceiling", row.ratio, least, True) for name, least in _RATIOS if (row := busiest.get(name))),
        *((f"finalize {it.size_bytes // 2**20} MiB, of the store alone", it.ratio, 0.5, True)
          for it in [media.get(2**20)] if it),
        *((f"{name} at half the peak, p95 ms", it.p95, most, False) for name, most in _P95 if (it := paced.get(name))),
        *((f"{name} at half the peak, p99 relative to p95", it.p99 / it.p95, 3, False) for name, _ in _P95
          if (it := paced.get(name))),
        *((f"{row.scenario}, p95 at {row.records:,} records relative to the fewest", ratio, 1.2, False)
          for row, ratio in _grown(run)),
        *((f"{it.scenario}, share of throughput lost to observability", it.share, 0.1, False) for it in run.observed),
        *(("memory growth of a worker, MiB per million requests", it.slope, 5, False) for it in [run.soak] if it),
        ("resident memory of a worker at most, MiB", max(run.resident_mib, default=None), 150, False),
    ]  # fmt: skip
    yield "## Goals\n\nOn two cores that service, database, broker, object store and load generator share.\n\n"
    yield _table(
        ["", "goal", "measured", ""],
        (
            [
                name,
                f"at least {goal:g}" if at_least else f"at most {goal:g}",
                f"{found:.2f}",
                "met" if (found >= goal) == at_least or found == goal else "**not met**",
            ]
            for name, found, goal, at_least in goals
            if found is not None
        ),
    )
    yield "\n"


def _grown(run: Run) -> Iterator[tuple[GrowthRow, float]]:
    """Yield each scenario on the largest vault, and its p95 relative to that on the smallest."""
    sizes = sorted({row.records for row in run.growth})
    smallest = {row.scenario: row.p95 for row in run.growth if row.records == sizes[0]}
    yield from ((row, row.p95 / smallest[row.scenario]) for row in run.growth if row.records == sizes[-1])


def _throughput(rows: Sequence[Row]) -> str:
    return _table(
        ["", *_THROUGHPUT.split("|")],
        (
            [
                row.scenario,
                str(row.connections),
                f"{row.figure('per_second'):,.0f}",
                "" if row.ceiling is None else f"{row.ceiling:,.0f}",
                "" if row.ratio is None else f"{row.ratio:.2f}",
                *(f"{row.figure(name):.1f}" for name in ("p50", "p95", "p99")),
                f"{row.service_cpu:.0f}",
                f"{row.database_cpu:.0f}",
            ]
            for row in rows
        ),
    )


def _variants(run: Run) -> Iterator[str]:
    for name, rows in run.variants.items():
        yield f"\n## Throughput, {name}\n\n"
        yield _throughput(rows)


def _growth(run: Run, folder: Path) -> Iterator[str]:
    """Yield the section, and write its plot: p95 at the largest size beside that at the smallest."""
    if not run.growth:
        return
    sizes = sorted({row.records for row in run.growth})
    found = {(row.scenario, row.records): row for row in run.growth}
    names = list(dict.fromkeys(row.scenario for row in run.growth))
    (folder / "growth.svg").write_text(
        _bars(
            f"p95 in milliseconds, at {sizes[0]:,} and at {sizes[-1]:,} records",
            [(name, found[name, sizes[0]].p95, found[name, sizes[-1]].p95) for name in names],
            (f"{sizes[0]:,}", f"{sizes[-1]:,}"),
        ),
        encoding="utf-8",
    )
    yield "\n## Growth of the vault\n\nOne creator has a tenth of all records. "
    yield "Milliseconds in an open loop at a fixed rate, CPU over 16 connections.\n\n"
    yield f"![Growth]({folder.name}/growth.svg)\n\n"
    yield _table(
        ["", "records", "p50 ms", "p95 ms", "p95 relative to the fewest", "service CPU us", "database CPU us"],
        (
            [
                row.scenario,
                f"{row.records:,}",
                f"{row.p50:.1f}",
                f"{row.p95:.1f}",
                f"{row.p95 / found[row.scenario, sizes[0]].p95:.2f}",
                f"{row.service_cpu:.0f}",
                f"{row.database_cpu:.0f}",
            ]
            for row in sorted(run.growth, key=lambda row: (names.index(row.scenario), row.records))
        ),
    )


def _soak(run: Run) -> Iterator[str]:
    if run.soak is not None:
        it = run.soak
        yield (
            f"\n## Memory over time\n\n{it.requests:,} requests in {it.seconds} s, nine reads to a write: the resident"
            f" memory of a worker was {it.first:.0f} MiB at first, {it.last:.0f} at last and {it.most:.0f} at most;"
            f" after warming up it changed by {it.slope:+.2f} MiB per million requests.\n"
        )


def _observed(run: Run) -> Iterator[str]:
    if run.observed:
        yield "\n## Cost of observability\n\n"
        yield "On: metrics, a JSON log line for each request and one trace in ten (OTLP). Off: none of them. "
        yield "64 connections, measured alternately.\n\n"
        yield _table(
            ["", "off, a second", "on, a second", "throughput lost"],
            ([it.scenario, f"{it.unseen:,.0f}", f"{it.seen:,.0f}", f"{it.share:.1%}"] for it in run.observed),
        )


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [names, ["---"] + ["---:"] * (len(names) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _bars(title: str, groups: Sequence[tuple[str, float, float]], names: tuple[str, str]) -> str:
    """Return an SVG of two horizontal bars a group, each with its figure."""
    top = max((max(first, second) for _, first, second in groups), default=1) or 1
    colours, width = ("#2b6cb0", "#a0aec0"), 420
    parts = [f'<text x="10" y="22" font-size="15">{escape(title)}</text>']
    for number, name in enumerate(names):
        parts.append(f'<rect x="{200 + 140 * number}" y="34" width="12" height="12" fill="{colours[number]}"/>')
        parts.append(f'<text x="{218 + 140 * number}" y="45">{escape(name)}</text>')
    for place, (label, *figures) in enumerate(groups):
        y = 60 + 44 * place
        parts.append(f'<text x="190" y="{y + 22}" text-anchor="end">{escape(label)}</text>')
        for number, figure in enumerate(figures):
            length, at = figure / top * width, y + 17 * number
            parts.append(f'<rect x="200" y="{at}" width="{length:.1f}" height="14" fill="{colours[number]}"/>')
            shown = f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}"
            parts.append(f'<text x="{206 + length:.1f}" y="{at + 12}">{shown}</text>')
    height = 70 + 44 * len(groups)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 {height}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])
