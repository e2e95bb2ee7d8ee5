"""Runs the suite against our service with one defect planted; the suite must report what the defect breaks.

`python -m tests.conformance.defects_run [PREFIX ...]` runs the defects whose names begin with a prefix, or all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.replica import Replica
from tests.conformance.defects import DEFECTS
from tests.conformance.defects_model import ROOT, Defect
from tests.conformance.judging import ORIGIN, Judgement, finished, started, wait_for
from tests.servers import NatsServer, own
from tests.servers.process import free_port

SEED = "1"  # fixed, so that a run can be repeated
AT_ONCE = 3  # runs in parallel, and as many of those that wait for a timeout of the suite


@dataclass(frozen=True)
class Run:
    """The run of one defect. `missed`: expected failures that were not reported. `beyond`: unexpected failures."""

    defect: Defect
    missed: tuple[str, ...]
    beyond: tuple[str, ...]
    seconds: float
    judgement: Judgement


def run(defect: Defect) -> Run:
    """Start our service with the defect and run the suite against it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        judgement = _judged(defect, Path(folder))
    failed = judgement.ids("failed") if judgement.report else set()
    missed = tuple(requirement for requirement in defect.caught_by if requirement not in failed)
    beyond = tuple(sorted(failed - {*defect.caught_by}))
    return Run(defect, missed, beyond, time.monotonic() - began, judgement)


def run_all(defects: list[Defect], at_once: int = AT_ONCE) -> Iterator[Run]:
    """Yield the runs in the order in which they end."""
    with ThreadPoolExecutor(at_once) as working, ThreadPoolExecutor(at_once) as waiting:
        runs = [(waiting if each.waits else working).submit(run, each) for each in defects]
        yield from (done.result() for done in as_completed(runs))


def _judged(defect: Defect, folder: Path) -> Judgement:
    issuer, catalogue = free_port(), free_port()
    settings = {
        "PYTHONPATH": str(ROOT),
        "CDV_JWT_ISSUER": f"http://127.0.0.1:{issuer}",
        "CDV_JWT_AUDIENCE": "cdv",
        "CDV_CORS_ALLOWED_ORIGINS": ORIGIN,
        "CDV_RATE_LIMIT_WRITES": "1000000/minute",
        "CDV_RATE_LIMIT_READS": "1000000/minute",
        "CDV_DATA_DIR": str(folder / "data"),
    }
    options = ["--own-issuer", str(issuer), "--cors-origin", ORIGIN, "--seed", SEED]
    for requirement in defect.judged:
        options += ["--only", requirement]
    with ExitStack() as stack:
        if defect.needs("EVENT"):
            nats = stack.enter_context(own(NatsServer, durable=False))
            settings["CDV_NATS_URL"] = nats.url
            options += ["--nats", nats.url]
        if defect.needs("SCHEMA-01"):
            settings["CDV_SPECS_URL"] = f"http://127.0.0.1:{catalogue}"
            options += ["--catalogue", str(catalogue)]
        if "CDV_REJECT_DEPRECATED_SCHEMAS" in defect.settings:
            options.append("--rejects-deprecated")
        program = f"from tests.conformance.defects import serve_with; serve_with({defect.name!r})"
        target = Replica(folder, {**settings, **defect.settings}, program=program)
        running = started(folder, target.url, *options)
        stack.callback(running.wait)
        stack.callback(running.kill)
        if "CDV_SPECS_URL" in settings:
            wait_for(f"{settings['CDV_SPECS_URL']}/SPEC_INDEX.json", running)
        target.start()
        stack.callback(target.end)
        return finished(running, folder)


def main() -> None:
    """Run the selected defects; exit with 1 if one was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prefixes", nargs="*", metavar="PREFIX", help="run only defects whose names begin with it")
    parser.add_argument(
        "--at-once", type=int, default=AT_ONCE, metavar="N", help=f"runs in parallel (default: {AT_ONCE})"
    )
    parser.add_argument("--verbose", action="store_true", help="print the output of the suite for each missed defect")
    arguments = parser.parse_args()
    chosen = [defect for defect in DEFECTS if defect.name.startswith(tuple(arguments.prefixes or [""]))]
    began = time.monotonic()
    missed = []
    for number, each in enumerate(run_all(chosen, arguments.at_once), 1):
        outcome = "caught" if not each.missed else f"MISSED: {' '.join(each.missed)} did not fail"
        outcome += f", also failed: {' '.join(each.beyond)}" if each.beyond else ""
        requirements = " ".join(each.defect.caught_by)
        print(
            f"{number:>3}/{len(chosen)} {each.seconds:5.1f} s  {each.defect.name:<32} {requirements:<24} {outcome}",
            flush=True,
        )
        if each.missed:
            missed.append(each)
            if arguments.verbose:
                print(each.judgement.text)
    print(f"{len(chosen)} defects, {len(chosen) - len(missed)} caught, in {time.monotonic() - began:.0f} s")
    for each in missed:
        print(f"missed: {each.defect.name}: {' '.join(each.missed)}")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
