"""`make bench-compare A=before.json B=after.json`: what changed between two runs, and how much of it is noise."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from tests.load.bench.results import Row, Run


def main() -> None:
    before, after = (msgspec.json.decode(Path(it).read_bytes(), type=Run) for it in sys.argv[1:3])
    earlier = {(row.scenario, row.connections): row for row in before.rows}
    print(f"{'':32} {'before':>9} {'after':>9} {'change':>8} {'noise':>7}   ratio to the ceiling")
    for row in after.rows:
        old = earlier.get((row.scenario, row.connections))
        if old is None:
            continue
        was, now = old.figure("per_second"), row.figure("per_second")
        noise = max(_spread(old), _spread(row))
        change = now / was - 1
        verdict = "" if abs(change) <= noise else ("  faster" if change > 0 else "  slower")
        ratios = "" if old.ratio is None or row.ratio is None else f"{old.ratio:.2f} -> {row.ratio:.2f}"
        name = f"{row.scenario} x{row.connections}"
        print(f"{name:32} {was:9,.0f} {now:9,.0f} {change:+8.1%} {noise:7.1%}   {ratios}{verdict}")


def _spread(row: Row) -> float:
    """Return how far apart the rounds of one run are, relative to their median."""
    figures = [it.closed.per_second for it in row.rounds]
    return (max(figures) - min(figures)) / row.figure("per_second")


if __name__ == "__main__":
    main()
