"""Looks for false failures: runs the suite with many seeds against our own service, which keeps the contract.

`python -m tests.conformance.seeds_run --seeds 50 --production 15` tests the embedded adapters with 35 seeds and the
production adapters with 15, with all options: the suite's own issuer and catalogue, and events.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.replica import Replica
from tests.conformance.front import Replicas, Serving
from tests.conformance.judging import Judgement, judge_with_everything
from tests.servers import Bucket, FaultProxy, NatsServer, PostgresServer, S3Server, own

RUN_SECONDS = {"quick": 600, "default": 3000, "thorough": 20000}
EMBEDDED, PRODUCTION = "embedded", "production"

# The service's default rate limits if the profile can exhaust them. `quick` uses those of `judge_with_everything`.
BUDGETS = {
    "quick": {},
    "default": {"CDV_RATE_LIMIT_WRITES": "600/minute", "CDV_RATE_LIMIT_READS": "3000/minute"},
    "thorough": {"CDV_RATE_LIMIT_WRITES": "4000/minute", "CDV_RATE_LIMIT_READS": "1000000/minute"},
}


def production_settings(dsn: str, nats_url: str, bucket: Bucket) -> dict[str, str]:
    """Return the settings of a service on Postgres, NATS and S3."""
    return {
        "CDV_DB_DSN": dsn,
        "CDV_NATS_URL": nats_url,
        "CDV_S3_ENDPOINT": bucket.endpoint,
        "CDV_S3_REGION": bucket.region,
        "CDV_S3_BUCKET": bucket.name,
        "CDV_S3_ACCESS_KEY": bucket.access_key,
        "CDV_S3_SECRET_KEY": bucket.secret_key,
    }


@dataclass(frozen=True)
class Run:
    """One run of the suite."""

    seed: int
    adapters: str
    judgement: Judgement

    @property
    def conforms(self) -> bool:
        """Whether no requirement of any level failed or was undecided."""
        report = self.judgement.report
        return self.judgement.code == 0 and bool(report) and not self.judgement.ids("failed") | self.undecided

    @property
    def undecided(self) -> set[str]:
        return self.judgement.ids("undecided") if self.judgement.report else set()

    def line(self) -> str:
        report = self.judgement.report
        if not report:
            return f"seed {self.seed:<6} {self.adapters:<10} exit {self.judgement.code}, no report"
        must = report["scores"]["MUST"]
        verdicts = ", ".join(
            f"{len(self.judgement.ids(verdict))} {verdict}"
            for verdict in ("passed", "failed", "undecided", "not judged")
        )
        score = f"MUST {must['percent']:5.1f} %"
        return f"seed {self.seed:<6} {self.adapters:<10} {score}  {verdicts}  {report['seconds']:6.1f} s"


class SharedServers:
    """The servers that all runs share. Each run has its own database, streams and bucket."""

    def __init__(self, latency_seconds: float = 0.0) -> None:
        self._latency_seconds = latency_seconds
        self._servers = ExitStack()
        self._nats: NatsServer | None = None
        self._postgres: PostgresServer | None = None
        self._s3: S3Server | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servers.close()

    @contextmanager
    def settings(self, adapters: str) -> Iterator[dict[str, str]]:
        self._nats = self._nats or self._servers.enter_context(own(NatsServer, durable=False))
        self._nats.clear()
        with ExitStack() as stack:
            nats_url = self._slowed(stack, self._nats.url)
            if adapters == EMBEDDED:
                yield {"CDV_NATS_URL": nats_url}
                return
            self._postgres = self._postgres or self._servers.enter_context(own(PostgresServer, durable=False))
            self._s3 = self._s3 or self._servers.enter_context(own(S3Server, durable=False))
            dsn, bucket = self._postgres.create_database(), self._s3.create_bucket()
            stack.callback(self._postgres.drop_database, dsn)
            stack.callback(self._s3.drop_bucket, bucket)
            settings = production_settings(self._slowed(stack, dsn), nats_url, bucket)
            yield {**settings, "CDV_S3_ENDPOINT": self._slowed(stack, bucket.endpoint)}

    def _slowed(self, stack: ExitStack, url: str) -> str:
        """Return the URL of the server, or of a proxy that adds latency."""
        if not self._latency_seconds:
            return url
        proxy = stack.enter_context(FaultProxy(url))
        proxy.delay(self._latency_seconds)
        return proxy.url


def serving(replicas: int, latency_seconds: float = 0.0) -> Serving:
    """Return how to start the service: as one process, or as replicas behind one address."""
    if replicas == 1 and not latency_seconds:
        return Replica
    return partial(Replicas, count=replicas, latency_seconds=latency_seconds)


def judge_with_seed(
    seed: int, adapters: str, servers: SharedServers, profile: str, serve: Serving, *options: str
) -> Run:
    """Start a new service and run the suite against it."""
    with tempfile.TemporaryDirectory() as folder, servers.settings(adapters) as settings:
        words = ["--profile", profile, "--seed", str(seed), *options]
        found = judge_with_everything(
            Path(folder), {**settings, **BUDGETS[profile]}, *words, serving=serve, run_seconds=RUN_SECONDS[profile]
        )
    return Run(seed, adapters, found)


def main() -> None:
    """Run all seeds; exit with 1 if anything failed or was undecided."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, default=50, metavar="N", help="number of runs, each with its own seed (default: 50)"
    )
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="the first seed (default: 1)")
    parser.add_argument(
        "--production",
        type=int,
        default=15,
        metavar="N",
        help="runs of these on Postgres, NATS and S3; the others are embedded (default: 15)",
    )
    parser.add_argument(
        "--profile", choices=[*BUDGETS], default="default", help="profile of the suite (default: default)"
    )
    parser.add_argument(
        "--replicas",
        type=int,
        default=1,
        metavar="N",
        help="replicas behind one address; production runs only (default: 1)",
    )
    parser.add_argument(
        "--latency-ms",
        type=float,
        default=0,
        metavar="MS",
        help="latency in each direction to Postgres, NATS and S3; a third of it to the service",
    )
    parser.add_argument("options", nargs="*", help="options for the suite, after --, such as --only LIST")
    arguments = parser.parse_args()
    production = min(arguments.production, arguments.seeds)
    if arguments.replicas > 1 and production < arguments.seeds:
        parser.error("--replicas: an embedded vault has one process; set --production to the number of --seeds")
    latency_seconds = arguments.latency_ms / 1000
    serve = serving(arguments.replicas, latency_seconds / 3)
    began, failures = time.monotonic(), 0
    with SharedServers(latency_seconds) as servers:
        for number in range(arguments.seeds):
            adapters = EMBEDDED if number < arguments.seeds - production else PRODUCTION
            run = judge_with_seed(
                arguments.first + number, adapters, servers, arguments.profile, serve, *arguments.options
            )
            print(run.line(), flush=True)
            if not run.conforms:
                failures += 1
                print(run.judgement.text, flush=True)
    print(f"{arguments.seeds} runs, {failures} with a failure, in {time.monotonic() - began:.0f} s")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
