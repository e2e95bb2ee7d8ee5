"""What it costs to be seen: the service with metrics, JSON logs and one trace in ten, against one without any."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from tests.chaos.replica import SERVE, Replica
from tests.http.otlp import collecting
from tests.load.bench.data import did, fill
from tests.load.bench.requests import create, listing
from tests.load.bench.results import Observed
from tests.load.bench.scenarios import sample
from tests.load.bench.stack import Stack
from tests.load.bench.wrk import Prepared, closed_loop

CONNECTIONS = 64
_SECONDS, _ROUNDS, _CREATORS, _EACH = 3, 5, 1_000, 150
# No setting turns metrics off, nor makes dev write JSON: these take the place of two functions that do.
_UNSEEN = f"""
import cdv_http.middleware.edge as edge
edge.observe_request = lambda *_: None
edge.log_request = lambda *_, **__: None
{SERVE}
"""
_SEEN = f"""
import cdv_http.app as app, cdv_http.logs as logs
set_up_logs = app.set_up_logs
app.set_up_logs = lambda settings: (set_up_logs(settings), setattr(logs._Chosen, "readable", None))
{SERVE}
"""


def observability(it: Stack, say: Callable[[str], None]) -> list[Observed]:
    """Measure both in turn. Ends the service that runs: its relay would do some of their work."""
    it.replica.stop()
    fill(it.postgres, creators=_CREATORS, each=_EACH)
    numbers = sample(_CREATORS)
    requests = {
        "create": Prepared(it.folder / "seen-create", [create(it.token(did(number)), number) for number in numbers]),
        "list 25": Prepared(it.folder / "seen-list", [listing(number, 25) for number in numbers]),
    }
    batches: list[int] = []
    with collecting() as collector:
        collector.take = lambda body: batches.append(len(body))  # type: ignore[method-assign] # unread: not ours to pay
        traced = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.1",
        }
        unseen = Replica(it.folder, it.settings, "unseen", _UNSEEN)
        seen = Replica(it.folder, it.settings | traced, "seen", _SEEN)
        found = [_compared(it, name, prepared, unseen, seen) for name, prepared in requests.items()]
        if not batches or '"route"' not in seen.log.read_text():
            raise SystemExit("nothing was seen of the service that is to be seen")
    for row in found:
        say(f"{row.scenario}: {row.unseen:,.0f} a second unseen, {row.seen:,.0f} seen: {row.share:.1%} of throughput")
    return found


def _compared(it: Stack, name: str, prepared: Prepared, unseen: Replica, seen: Replica) -> Observed:
    pairs = []
    for number in range(_ROUNDS):
        order = (unseen, seen) if number % 2 else (seen, unseen)
        rates = {replica: _rate(it, replica, prepared) for replica in order}
        pairs.append((rates[unseen], rates[seen]))
    share = 1 - median(with_it / without for without, with_it in pairs)
    return Observed(name, median(it for it, _ in pairs), median(it for _, it in pairs), share)


def _rate(it: Stack, replica: Replica, prepared: Prepared) -> float:
    """Return how many requests a second it answers when no other runs."""
    with replica:
        closed_loop(replica.url, prepared, connections=CONNECTIONS, seconds=1)  # warm
        it.wait_until_published()
        closed = closed_loop(replica.url, prepared, connections=CONNECTIONS, seconds=_SECONDS)
        it.wait_until_published()
        replica.stop()
    return closed.per_second
