"""Memory growth under load: reads and writes for minutes, and the slope of the resident memory."""

from __future__ import annotations

from statistics import linear_regression

from tests.load.bench.results import Soak
from tests.load.bench.stack import Stack
from tests.load.bench.wrk import Prepared, closed_loop

CONNECTIONS = 16
_STEP_SECONDS = 5


def soak(it: Stack, prepared: Prepared, seconds: int) -> Soak:
    """Run the load for `seconds`. The first quarter is warm-up and is not counted.

    Raises: SystemExit: a request was refused.
    """
    samples: list[tuple[float, float]] = []
    requests = 0
    for _ in range(max(seconds // _STEP_SECONDS, 8)):
        closed = closed_loop(it.url, prepared, connections=CONNECTIONS, seconds=_STEP_SECONDS)
        if closed.refused or closed.broken:
            raise SystemExit(f"soak: {closed.refused} refused, {closed.broken} broken")
        requests += closed.requests
        samples.append((requests / 1e6, it.service.resident_mib()[0]))
    counted = samples[len(samples) // 4 :]
    slope = linear_regression([at for at, _ in counted], [mib for _, mib in counted]).slope
    return Soak(requests, seconds, slope, samples[0][1], samples[-1][1], max(mib for _, mib in samples))
