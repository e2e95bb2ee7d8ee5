"""The conformance suite can fail: it reports each defect that is planted in our service."""

from __future__ import annotations

import pytest

from conformance.http.requirements import requirements
from tests.conformance.defects import DEFECTS, TRAPS, as_markdown
from tests.conformance.defects_model import ROOT, Defect
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


def test_every_defect_is_up_to_date():
    outdated = [
        f"{it.name}: {edit.file} contains {edit.found} times {edit.old!r}"
        for it in DEFECTS
        for edit in it.edits
        if edit.found != 1
    ]

    assert not outdated, "\n".join(["the source has changed: change the edits of these defects as well", *outdated])


def test_defects_are_well_formed():
    assert len({it.name for it in DEFECTS}) == len(DEFECTS)
    assert {name for it in DEFECTS for name in it.caught_by} <= {*requirements()}
    assert {it.trap for it in DEFECTS} - {""} == {trap for trap, unseen in TRAPS.items() if not unseen}
    assert {it.name for it in DEFECTS} >= SAMPLE


def test_every_requirement_is_broken_by_a_defect():
    assert {*requirements()} - {name for it in DEFECTS for name in it.caught_by} == set()


def test_the_page_of_defects_is_the_list_in_code():
    assert (ROOT / "docs/defects.md").read_text(encoding="utf-8") == as_markdown()


def test_a_service_without_a_defect_is_cleared():
    judged = tuple(name for it in DEFECTS if it.name in SAMPLE for name in it.judged)

    judgement = run(Defect("", "nothing", judged, ())).judgement

    assert judgement.ids("passed") >= {*judged}, judgement.text
    assert judgement.code == 0, judgement.text


def test_a_sample_of_defects_is_reported():
    assert_reported([it for it in DEFECTS if it.name in SAMPLE])


def test_a_member_that_the_contract_does_not_name_fails_no_must():
    (said_more,) = (it for it in DEFECTS if it.name == "receipt-says-more")

    found = run(said_more)

    assert (found.missed, found.beyond) == ((), ()), found.judgement.text
    assert found.judgement.ids("undecided") == set()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_defect_is_reported():
    assert_reported(DEFECTS)


def assert_reported(defects: list[Defect]) -> None:
    missed = [f"{it.defect.name}: {' '.join(it.missed)}\n{it.judgement.text}" for it in run_all(defects) if it.missed]

    assert not missed, "\n".join(missed)
