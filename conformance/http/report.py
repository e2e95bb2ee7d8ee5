"""Reports of a run's verdicts: as text for the terminal, as JSON, and as JUnit XML."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conformance.http.plan import Plan
from conformance.http.requirements import GROUPS, LEVELS
from conformance.http.verdicts import FAILED, NOT_JUDGED, UNDECIDED, Score, Verdict, score_of

FAILURES_SHOWN = 20


def as_text(plan: Plan, verdicts: list[Verdict]) -> str:
    """Return the text that the terminal shows at the end: scores, failures, and what was not decided."""
    lines = [f"{'group':<14} {'passed':>6} {'failed':>6} {'undecided':>9} {'not judged':>10} {'score':>7}"]
    lines += [_row(group, score_of(verdicts, group=group)) for group in GROUPS.values()]
    lines += [_row(level, score) for level, score in scores(verdicts) if level in LEVELS and score != Score(0, 0, 0, 0)]
    failed = [each for each in verdicts if each.verdict == FAILED]
    for each in failed[:FAILURES_SHOWN]:
        lines += ["", f"{each.requirement.id} {each.requirement.level}: {each.requirement.clause}", f"  {each.detail}"]
        lines += [f"    {line}" for line in each.script.splitlines()]
    if len(failed) > FAILURES_SHOWN:
        lines += ["", f"{len(failed) - FAILURES_SHOWN} more failed: --html FILE or --json FILE write them all"]
    for verdict in (UNDECIDED, NOT_JUDGED):
        reasons: dict[str, list[str]] = {}
        for each in verdicts:
            if each.verdict == verdict:
                reasons.setdefault(each.detail.splitlines()[0][:150], []).append(each.requirement.id)
        lines += ["", f"{verdict}:"] if reasons else []
        lines += [f"  {_ids(ids)}: {reason}" for reason, ids in reasons.items()]
    return "\n".join([*lines, "", f"seed {plan.seed}, profile {plan.profile}, {plan.url}"])


def as_data(plan: Plan, verdicts: list[Verdict]) -> dict[str, Any]:
    """Return the content of the JSON report."""
    return {
        "url": plan.url,
        "seed": plan.seed,
        "profile": plan.profile,
        "seconds": plan.seconds,
        "scores": {name: _score(score) for name, score in scores(verdicts)},
        "requirements": [
            {
                **asdict(each.requirement),
                "group": each.requirement.group,
                "verdict": each.verdict,
                "detail": each.detail,
                "script": each.script,
                "tests": sorted({outcome.test for outcome in each.outcomes}),
            }
            for each in verdicts
        ],
    }


def scores(verdicts: list[Verdict]) -> Iterator[tuple[str, Score]]:
    """Yield the score of each level, then of each group."""
    for level in LEVELS:
        yield level, score_of(verdicts, level=level)
    for group in GROUPS.values():
        yield group, score_of(verdicts, group=group)


def write_json(path: Path, plan: Plan, verdicts: list[Verdict]) -> None:
    path.write_text(json.dumps(as_data(plan, verdicts), indent=1) + "\n", encoding="utf-8")


def write_junit(path: Path, plan: Plan, verdicts: list[Verdict]) -> None:
    """Write one test case per requirement; undecided becomes an error, not judged becomes skipped."""
    failures, errors, skipped = ([v for v in verdicts if v.verdict == it] for it in (FAILED, UNDECIDED, NOT_JUDGED))
    counts = {"tests": len(verdicts), "failures": len(failures), "errors": len(errors), "skipped": len(skipped)}
    suite = ET.Element("testsuite", {"name": f"cdv-conformance {plan.url}", **{k: str(v) for k, v in counts.items()}})
    for each in verdicts:
        names = {"classname": each.requirement.group, "name": f"{each.requirement.id} {each.requirement.clause}"}
        case = ET.SubElement(suite, "testcase", {**names, "time": "0"})
        element = {FAILED: "failure", UNDECIDED: "error", NOT_JUDGED: "skipped"}.get(each.verdict)
        if element:
            ET.SubElement(case, element, {"message": each.detail}).text = each.script
    ET.indent(suite)
    ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def _row(name: str, score: Score) -> str:
    percent = "-" if score.percent is None else f"{score.percent:.1f} %"
    return f"{name:<14} {score.passed:>6} {score.failed:>6} {score.undecided:>9} {score.not_judged:>10} {percent:>7}"


def _score(score: Score) -> dict[str, Any]:
    return {**asdict(score), "percent": score.percent}


def _ids(ids: list[str]) -> str:
    return ", ".join(ids[:6]) + (f" and {len(ids) - 6} more" if len(ids) > 6 else "")
