"""One run of the suite: starts pytest with the plan, and collects the outcome of every test."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis.errors import HypothesisException

from conformance.http import fixtures, profiles
from conformance.http.exchanges import RECORDER
from conformance.http.plan import Plan
from conformance.http.requirements import Nonconforming, Undecided
from conformance.http.tokens import NoTokens
from conformance.http.vault import Vault
from conformance.http.verdicts import FAILED, NOT_JUDGED, PASSED, UNDECIDED, Outcome, outcomes_of_laws

FOLDER = Path(__file__).parent
DETAIL_MAX = 1500  # characters
# Rotation is first: tokens with unknown kids start a cool-down, which it would have to wait for. Limits are last: they
# exhaust rate-limit budgets.
ORDER = [
    *("rotation", "operations", "records", "content_ids", "idempotency", "listing", "cursors", "auth", "authorisation"),
    *("media", "errors", "cors", "schemas", "events", "machine", "limits"),
]


def run(plan: Plan, progress: Progress | None = None) -> list[Outcome]:
    """Return every outcome, even if the run is interrupted."""
    profiles.choose(plan.profile)
    plugin = RunPlugin(plan, progress or Progress(live=False))
    arguments = [str(FOLDER), f"--config-file={FOLDER / 'pytest.ini'}", f"--rootdir={FOLDER}"]
    arguments += ["--disable-plugin-autoload", "-p", "_hypothesis_pytestplugin", f"--hypothesis-seed={plan.seed}"]
    code = pytest.main(arguments, plugins=[plugin, fixtures])
    if code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED}:
        plugin.outcomes.append(Outcome("OPS-004", UNDECIDED, "the suite", f"pytest ended abnormally: {code!r}"))
    return [*plugin.outcomes, *plugin.unfinished(), *outcomes_of_laws(plugin.target.findings)]


class Progress:
    """Reports progress on standard error: a line per module of tests, and a live counter on a terminal."""

    def __init__(self, *, live: bool) -> None:
        self._live = live
        self._name = ""
        self._done: list[str] = []

    def begin(self, name: str, total: int) -> None:
        self.end()
        self._name, self._total, self._done = name, total, []
        self._count()

    def add(self, verdict: str) -> None:
        self._done.append(verdict)
        self._count()

    def end(self) -> None:
        if self._name:
            counts = ", ".join(f"{self._done.count(it)} {it}" for it in dict.fromkeys(self._done))
            print(f"{self._clear()}{self._name:<14} {counts}", file=sys.stderr, flush=True)
            self._name = ""

    def _count(self) -> None:
        if self._live:
            print(
                f"{self._clear()}{self._name:<14} {len(self._done)}/{self._total}", end="", file=sys.stderr, flush=True
            )

    def _clear(self) -> str:
        return "\r\x1b[K" if self._live else ""


class RunPlugin:
    """A pytest plugin that provides the plan and the target to the tests and collects their outcomes."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self._plan = plan
        self.outcomes: list[Outcome] = []
        self.target = Vault(plan.url, plan.tokens, profiles.PROFILES[plan.profile].wait_seconds, plan.trust)
        self._progress = progress
        self._totals: dict[str, int] = {}
        self._pending: dict[str, pytest.Item] = {}  # by node id

    def unfinished(self) -> Iterator[Outcome]:
        """Yield an undecided outcome for each test that was not run to its end."""
        for item in self._pending.values():
            yield from (
                Outcome(each, UNDECIDED, item.name, "the run was interrupted before this test ended")
                for each in ids_of(item)
            )

    @pytest.fixture(scope="session")
    def plan(self) -> Plan:
        return self._plan

    @pytest.fixture(scope="session")
    def vault(self) -> Iterator[Vault]:
        yield self.target
        self.target.close()

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        reporter = config.pluginmanager.unregister(name="terminalreporter")
        assert reporter is not None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self._plan.only:
            items[:] = [item for item in items if any(it.startswith(self._plan.only) for it in ids_of(item))]
        items.sort(key=lambda item: ORDER.index(_module(item)))
        self._pending = {item.nodeid: item for item in items}
        for item in items:
            self._totals[_module(item)] = self._totals.get(_module(item), 0) + 1

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
        if _module(item) in self._totals:
            self._progress.begin(_module(item).replace("_", " "), self._totals.pop(_module(item)))
        RECORDER.begin()
        return (yield)

    def pytest_runtest_setup(self) -> None:
        if self.target.down_since:
            self.target.revive()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        report = yield
        if call.when == "call" or (call.when == "setup" and call.excinfo is not None):
            error = call.excinfo.value if call.excinfo is not None else None
            found = [*outcomes_of(ids_of(item), item.name, error)]
            self._pending.pop(item.nodeid, None)
            self.outcomes += found
            self._progress.add(min((it.verdict for it in found), key=(FAILED, UNDECIDED, NOT_JUDGED, PASSED).index))
        return report

    def pytest_sessionfinish(self) -> None:
        self._progress.end()


def ids_of(item: pytest.Item) -> tuple[str, ...]:
    function = item.function if isinstance(item, pytest.Function) else None
    ids: tuple[str, ...] = getattr(function, "judges", ())
    return ids


def outcomes_of(ids: tuple[str, ...], test: str, error: BaseException | None) -> Iterator[Outcome]:
    """Yield what the end of a test says about each requirement that it judges."""
    if error is None:
        yield from (Outcome(each, PASSED, test) for each in ids)
        return
    if isinstance(error, BaseExceptionGroup):  # Hypothesis raises a group when a failure could not be reproduced
        error = error.exceptions[0]
    if isinstance(error, Undecided | NoTokens | HypothesisException | httpx.HTTPError | OSError):
        yield from (Outcome(each, UNDECIDED, test, _detail(error)) for each in ids)
    elif isinstance(error, pytest.skip.Exception):
        yield from (Outcome(each, NOT_JUDGED, test, _detail(error)) for each in ids)
    else:
        broken = (error.requirement,) if isinstance(error, Nonconforming) else ids
        script = RECORDER.script()
        yield from (Outcome(each, FAILED, test, _detail(error), script) for each in broken)
        stopped = f"not reached: the test ended early, because {', '.join(broken)} failed"
        yield from (Outcome(each, UNDECIDED, test, stopped) for each in ids if each not in broken)


def _detail(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if not isinstance(error, AssertionError | pytest.skip.Exception):
        text = f"{type(error).__name__}: {text}"
    return text[:DETAIL_MAX]


def _module(item: pytest.Item) -> str:
    return item.path.stem.removeprefix("test_")
