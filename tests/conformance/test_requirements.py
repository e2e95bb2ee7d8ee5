"""Every requirement has a test or a law, and every test and law belongs to a requirement."""

import importlib
import re
from pathlib import Path

import pytest

from conformance.http import runner
from conformance.http.cids import cid_of
from conformance.http.laws import LAWS, TESTED_TOO
from conformance.http.requirements import GROUPS, LEVELS, as_markdown, requirements

ROOT = Path(__file__).parent.parent.parent
MODULES = sorted(path.stem for path in runner.FOLDER.glob("test_*.py"))


def marked() -> dict[str, tuple[str, ...]]:
    """Return each test of the suite with the requirements that it names."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(f"conformance.http.{name}")
        for test in (name for name in vars(module) if name.startswith("test_")):
            found[f"{name}.{test}"] = getattr(getattr(module, test), "judges", ())
    return found


def test_every_requirement_has_a_test_or_a_law():
    judged = {each for ids in marked().values() for each in ids} | {*LAWS}

    assert {*requirements()} - judged == set()


def test_laws_that_also_have_tests_are_listed():
    assert {each for ids in marked().values() for each in ids} & {*LAWS} == TESTED_TOO


def test_every_test_and_every_law_has_a_requirement():
    named = {each for ids in marked().values() for each in ids} | {*LAWS}

    assert named - {*requirements()} == set()
    assert [test for test, ids in marked().items() if not ids] == []


def test_every_clause_names_a_requirement_of_its_test():
    for name in MODULES:
        source = (runner.FOLDER / f"{name}.py").read_text(encoding="utf-8")
        for test in re.split(r"^@judges", source, flags=re.MULTILINE)[1:]:
            ids = re.findall(r'"([A-Z]+-\d{3})"', test.partition("\n@for_all")[0].partition("\ndef ")[0])
            test = test.partition("\n\n\ndef ")[0]
            assert {*re.findall(r'clause\("([A-Z]+-\d{3})"', test)} <= {*ids}, f"{name}: {ids}"


def test_requirements_are_well_formed():
    for found in requirements().values():
        prefix, _, number = found.id.partition("-")
        assert prefix in GROUPS
        assert re.fullmatch(r"\d{3}", number)
        assert found.level in LEVELS
        assert found.clause.endswith(".")
    written = re.findall(r'^id = "(.+)"$', (runner.FOLDER / "requirements.toml").read_text(), flags=re.MULTILINE)
    assert [*requirements()] == written, "an id is given twice"


def test_every_module_is_in_the_order_of_a_run():
    assert {f"test_{name}" for name in runner.ORDER} == {*MODULES}


def test_the_requirements_page_is_up_to_date():
    assert (ROOT / "docs/requirements.md").read_text(encoding="utf-8") == as_markdown()


@pytest.mark.parametrize(
    ("value", "cid"),
    [  # computed with libipld; {"hello": "world"} is an example of the IPLD documentation
        ({"hello": "world"}, "bafyreidykglsfhoixmivffc5uwhcgshx4j465xwqntbmu43nb2dzqwfvae"),
        ({}, "bafyreigbtj4x7ip5legnfznufuopl4sg4knzc2cof6duas4b3q2fy6swua"),
    ],
)
def test_cids_match_those_of_another_implementation(value: dict[str, str], cid: str):
    assert cid_of(value) == cid
