"""From the outcomes of tests and laws to one verdict per requirement, and from verdicts to a score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from conformance.http.exchanges import printable
from conformance.http.laws import LAWS, Findings
from conformance.http.requirements import LEVELS, Requirement, requirements

PASSED, FAILED, UNDECIDED, NOT_JUDGED = "passed", "failed", "undecided", "not judged"
_WORST_FIRST = (FAILED, UNDECIDED, PASSED, NOT_JUDGED)
CONFORMING, NONCONFORMING, USAGE, OPEN = 0, 1, 2, 3  # exit codes


@dataclass(frozen=True)
class Outcome:
    """How one test went for one requirement. `script`: what to paste to see it fail."""

    requirement: str
    verdict: str
    test: str
    detail: str = ""
    script: str = ""


@dataclass
class Verdict:
    """What is known of one requirement, the worst outcome first."""

    requirement: Requirement
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return self.outcomes[0].verdict if self.outcomes else NOT_JUDGED

    @property
    def detail(self) -> str:
        return printable(self.outcomes[0].detail) if self.outcomes else "left out of this run"

    @property
    def script(self) -> str:
        return printable(self.outcomes[0].script) if self.outcomes else ""


@dataclass(frozen=True)
class Score:
    """Counts of one group or level."""

    passed: int
    failed: int
    undecided: int
    not_judged: int

    @property
    def percent(self) -> float | None:
        """Return the part that passed of what was decided; None if nothing was."""
        decided = self.passed + self.failed
        return 100 * self.passed / decided if decided else None


def outcomes_of_laws(findings: Findings) -> Iterable[Outcome]:
    """Yield an outcome per law: of one that speaks of no answer that came, this run says nothing."""
    for requirement in LAWS:
        if requirement in findings.broken:
            wrong, exchange = findings.broken[requirement]
            yield Outcome(requirement, FAILED, "every answer", wrong, exchange.curl())
        elif findings.asked[requirement]:
            yield Outcome(requirement, PASSED, f"every answer ({findings.asked[requirement]})")
        else:
            yield Outcome(requirement, NOT_JUDGED, "every answer", "no answer came that it speaks of")


def verdicts_of(outcomes: Iterable[Outcome]) -> list[Verdict]:
    """Return a verdict for each requirement, in the order of the list."""
    verdicts = {name: Verdict(requirement) for name, requirement in requirements().items()}
    for outcome in outcomes:
        verdicts[outcome.requirement].outcomes.append(outcome)
    for verdict in verdicts.values():
        verdict.outcomes.sort(key=lambda outcome: _WORST_FIRST.index(outcome.verdict))
    return [*verdicts.values()]


def score_of(verdicts: Iterable[Verdict], *, group: str = "", level: str = "") -> Score:
    """Return the counts of a group, a level, both or all."""
    found = [
        each.verdict
        for each in verdicts
        if group in {"", each.requirement.group} and level in {"", each.requirement.level}
    ]
    return Score(*(found.count(verdict) for verdict in (PASSED, FAILED, UNDECIDED, NOT_JUDGED)))


def exit_code(verdicts: list[Verdict], min_percent: float) -> int:
    """Return 0 if enough of the MUSTs hold, 1 if not, 3 if the target could not be asked."""
    must = score_of(verdicts, level=LEVELS[0])
    if must.percent is not None and must.percent < min_percent:
        return NONCONFORMING
    return OPEN if must.percent is None or must.undecided else CONFORMING
