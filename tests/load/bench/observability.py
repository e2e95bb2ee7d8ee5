"""The cost of observability: the service with metrics, JSON logs and one trace in ten, compared with none of them.

One process switches them on and off in turn, so that both modes have the same caches, memory and noise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from statistics import median
from typing import TextIO

from tests.chaos.replica import SERVE, Replica
from tests.http.otlp import collecting
from tests.load.bench.data import did, fill
from tests.load.bench.requests import create, listing
from tests.load.bench.results import Observed
from tests.load.bench.scenarios import sample
from tests.load.bench.stack import Stack
from tests.load.bench.wrk import Prepared, closed_loop

CONNECTIONS = 64
_SECONDS, _ROUNDS, _CREATORS, _EACH = 2, 24, 1_000, 150
# No setting turns metrics off, nor makes dev write JSON, and none of them can be changed while it runs.
_SWITCHED = f"""
import dataclasses, inspect, threading
import cdv_adapters.bootstrap as bootstrap, cdv_adapters.tracing as tracing
import cdv_http.completed_requests as answered, cdv_http.app as app, cdv_http.logs as logs

set_up_logs, trace_methods, use = app.set_up_logs, tracing.trace_methods, tracing.use
observers, traced, started = (answered.observe_requests, answered.log_requests), [], []

def hide():
    answered.observe_requests = answered.log_requests = lambda *_, **__: None
    use(None)
    for part, *_ in traced:
        for name, _ in inspect.getmembers(type(part), inspect.iscoroutinefunction):
            vars(part).pop(name, None)

def show():
    hide()
    answered.observe_requests, answered.log_requests = observers
    use(*started)
    for part in traced:
        trace_methods(*part)

def read_commands():
    with open("switch") as switch:
        for line in switch:
            globals()[line.strip()]()

def begin(settings):
    set_up_logs(settings)
    logs._request_log = dataclasses.replace(logs._request_log, text_format=None)
    threading.Thread(target=read_commands, daemon=True).start()

assert bootstrap.trace_methods is trace_methods  # it moved once, and its spans were measured with both
app.set_up_logs = begin
bootstrap.trace_methods = lambda *part: (traced.append(part), trace_methods(*part))
tracing.use = lambda tracing: (started.append(tracing), use(tracing))
{SERVE}
"""


def observability(it: Stack, log: Callable[[str], None]) -> list[Observed]:
    """Measure both modes in turn. Stops the running service first, since its relay would do some of the work."""
    it.replica.stop()
    fill(it.postgres, creators=_CREATORS, each=_EACH)
    numbers = sample(_CREATORS)
    requests = {
        "create": Prepared(it.folder / "seen-create", [create(it.token(did(number)), number) for number in numbers]),
        "list 25": Prepared(it.folder / "seen-list", [listing(number, 25) for number in numbers]),
    }
    batches: list[int] = []
    with collecting() as collector:
        collector.take = lambda body: batches.append(len(body))  # type: ignore[method-assign] # unparsed: not the service's cost
        traced = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
        }
        os.mkfifo(it.folder / "switch")
        with (
            Replica(it.folder, it.settings | traced, "seen", _SWITCHED) as replica,
            (it.folder / "switch").open("w", buffering=1) as switch,
        ):
            found = [_compared(it, name, prepared, replica.url, switch) for name, prepared in requests.items()]
            replica.stop()
        if not batches or '"route"' not in replica.log.read_text():
            raise SystemExit("nothing was seen of the service that is to be seen")
    for row in found:
        log(f"{row.scenario}: {row.unseen:,.0f} a second unseen, {row.seen:,.0f} seen: {row.share:.1%} of throughput")
    return found


def _compared(it: Stack, name: str, prepared: Prepared, url: str, switch: TextIO) -> Observed:
    def rate(what: str) -> float:
        switch.write(f"{what}\n")
        it.wait_until_published()
        return closed_loop(url, prepared, connections=CONNECTIONS, seconds=_SECONDS).per_second

    for what in ("hide", "show"):
        rate(what)  # warm
    pairs = []
    for number in range(_ROUNDS):
        rates = {what: rate(what) for what in (("hide", "show") if number % 2 else ("show", "hide"))}
        pairs.append((rates["hide"], rates["show"]))
    share = 1 - median(seen / unseen for unseen, seen in pairs)
    return Observed(name, median(it for it, _ in pairs), median(it for _, it in pairs), share)
