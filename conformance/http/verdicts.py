"""Combines the outcomes of tests and laws into one verdict per requirement, and verdicts into scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from conformance.http.exchanges import printable
from conformance.http.laws import LAWS, Findings
from conformance.http.requirements import LEVELS, Requirement, requirements

PASSED, FAILED, UNDECIDED, NOT_JUDGED = "passed", "failed", "undecided", "not judged"
_WORST_FIRST = (FAILED, UNDECIDED, PASSED, NOT_JUDGED)
CONFORMING, NONCONFORMING, USAGE, INCONCLUSIVE = 0, 1, 2, 3  # exit codes


@dataclass(frozen=True)
class Outcome:
    """What one test says about one requirement. `script`: curl commands that reproduce a failure."""

    requirement: str
    verdict: str
    test: str
    detail: str = ""
    script: str = ""


@dataclass
class Verdict:
    """All outcomes of one requirement, the worst first."""

    requirement: Requirement
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return self.outcomes[0].verdict if self.outcomes else NOT_JUDGED

    @property
    def detail(self) -> str:
        return (
            printable(self.outcomes[0].detail)
            if self.outcomes
            else "no test of this requirement was selected in this run"
        )

    @property
    def script(self) -> str:
        return printable(self.outcomes[0].script) if self.outcomes else ""


@dataclass(frozen=True)
class Score:
    """How many requirements of a group or level have each verdict."""

    passed: int
    failed: int
    undecided: int
    not_judged: int

    @property
    def percent(self) -> float | None:
        """Return the percentage of passed among decided (passed or failed) requirements; None if none was decided."""
        decided = self.passed + self.failed
        return 100 * self.passed / decided if decided else None


def outcomes_of_laws(findings: Findings) -> Iterable[Outcome]:
    """Yield an outcome per law. A law that applied to no response of the run is not judged."""
    for requirement in LAWS:
        if requirement in findings.violations:
            violation, exchange = findings.violations[requirement]
            yield Outcome(requirement, FAILED, "every response", violation, exchange.curl())
        elif findings.checked[requirement]:
            yield Outcome(requirement, PASSED, f"every response ({findings.checked[requirement]})")
        else:
            yield Outcome(requirement, NOT_JUDGED, "every response", "it applies to none of the responses of this run")


def verdicts_of(outcomes: Iterable[Outcome]) -> list[Verdict]:
    """Return a verdict for each requirement, in the order of requirements.toml."""
    verdicts = {name: Verdict(requirement) for name, requirement in requirements().items()}
    for outcome in outcomes:
        verdicts[outcome.requirement].outcomes.append(outcome)
    for verdict in verdicts.values():
        verdict.outcomes.sort(key=lambda outcome: _WORST_FIRST.index(outcome.verdict))
    return [*verdicts.values()]


def score_of(verdicts: Iterable[Verdict], *, group: str = "", level: str = "") -> Score:
    """Return the counts of the requirements of a group, a level or both; of all by default."""
    found = [
        each.verdict
        for each in verdicts
        if group in {"", each.requirement.group} and level in {"", each.requirement.level}
    ]
    return Score(*(found.count(verdict) for verdict in (PASSED, FAILED, UNDECIDED, NOT_JUDGED)))


def exit_code(verdicts: list[Verdict], min_percent: float) -> int:
    """Return 1 if the score of MUST is below `min_percent`, 3 if a MUST is undecided or none was decided, else 0."""
    must = score_of(verdicts, level=LEVELS[0])
    if must.percent is not None and must.percent < min_percent:
        return NONCONFORMING
    return INCONCLUSIVE if must.percent is None or must.undecided else CONFORMING
