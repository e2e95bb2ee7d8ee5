"""The conformance suite can fail: it reports each defect that is planted in our service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conformance.http.requirements import requirements
from tests.conformance.defects import DEFECTS, TRAPS, as_markdown
from tests.conformance.defects_model import ROOT, Defect, edited_sources
from tests.conformance.defects_run import run, run_all

# One of each kind, and none for which the suite waits long.
SAMPLE = {
    "random-cid",
    "keys-shared-by-all",
    "boundary-skipped",
    "signatures-unchecked",
    "upload-url-still-works",
    "formats-of-any-kind",
    "metrics-stand-still",
    "deduplicated-by-correlation-id",
}


def test_the_edits_of_every_defect_match_the_source():
    outdated = [
        f"{defect.name}: {edit.file} contains {edit.found} times {edit.old!r}"
        for defect in DEFECTS
        for edit in defect.edits
        if edit.found != 1
    ]

    assert not outdated, "\n".join(["the source has changed: change the edits of these defects as well", *outdated])


def test_the_planted_code_has_no_undefined_names(tmp_path: Path):
    """Otherwise a defect that the source has outgrown fails in another way than it says."""
    for defect in DEFECTS:
        for module, source in edited_sources(defect.edits).items():
            planted = tmp_path / defect.name / f"{module}.py"
            planted.parent.mkdir(exist_ok=True)
            planted.write_text(source, encoding="utf-8")
    ruff = str(Path(sys.executable).with_name("ruff"))

    checked = subprocess.run(
        [ruff, "check", "--isolated", "--no-cache", "--select=E9,F821", tmp_path], capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stdout


def test_defects_are_well_formed():
    assert len({defect.name for defect in DEFECTS}) == len(DEFECTS)
    assert {name for defect in DEFECTS for name in defect.caught_by} <= {*requirements()}
    assert {defect.trap for defect in DEFECTS} - {""} == {trap for trap, reason in TRAPS.items() if not reason}
    assert {defect.name for defect in DEFECTS} >= SAMPLE


def test_every_requirement_is_broken_by_a_defect():
    assert {*requirements()} - {name for defect in DEFECTS for name in defect.caught_by} == set()


def test_the_defects_page_is_up_to_date():
    assert (ROOT / "docs/defects.md").read_text(encoding="utf-8") == as_markdown()


def test_a_service_without_a_defect_passes():
    judged = tuple(name for defect in DEFECTS if defect.name in SAMPLE for name in defect.judged)

    judgement = run(Defect("", "nothing", judged, ())).judgement

    assert judgement.ids("passed") >= {*judged}, judgement.text
    assert judgement.code == 0, judgement.text


def test_a_sample_of_defects_is_reported():
    assert_reported([defect for defect in DEFECTS if defect.name in SAMPLE])


def test_a_member_outside_the_contract_fails_no_other_requirement():
    (extra_member,) = (defect for defect in DEFECTS if defect.name == "receipt-says-more")

    found = run(extra_member)

    assert (found.missed, found.beyond) == ((), ()), found.judgement.text
    assert found.judgement.ids("undecided") == set()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_defect_is_reported():
    assert_reported(DEFECTS)


def assert_reported(defects: list[Defect]) -> None:
    missed = [f"{it.defect.name}: {' '.join(it.missed)}\n{it.judgement.text}" for it in run_all(defects) if it.missed]

    assert not missed, "\n".join(missed)
