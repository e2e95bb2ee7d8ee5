"""The requirements of the contract (requirements.toml), and how a test declares which of them it judges."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
from _pytest.outcomes import Skipped

LEVELS = ("MUST", "SHOULD", "MAY")
GROUPS = {
    "REC": "records",
    "CID": "content ids",
    "IDEM": "idempotency",
    "LIST": "listing",
    "AUTH": "authentication",
    "MEDIA": "media",
    "ERR": "errors",
    "OPS": "operations",
    "CORS": "cross-origin",
    "LIMIT": "limits",
    "SCHEMA": "schemas",
    "EVENT": "events",
}
Test = TypeVar("Test", bound=Callable[..., object])


@dataclass(frozen=True)
class Requirement:
    """One requirement. The prefix of its id names its group."""

    id: str
    level: str
    source: str
    clause: str

    @property
    def group(self) -> str:
        return GROUPS[self.id.partition("-")[0]]


@cache
def requirements() -> dict[str, Requirement]:
    """Return all requirements by id, in the order of the file."""
    file = Path(__file__).with_name("requirements.toml")
    entries = tomllib.loads(file.read_text(encoding="utf-8"))["requirement"]
    return {entry["id"]: Requirement(**entry) for entry in entries}


def judges(*ids: str) -> Callable[[Test], Test]:
    """Declare which requirements the outcome of a test decides."""

    def note(test: Test) -> Test:
        test.judges = ids  # type: ignore[attr-defined]
        return test

    return note


class Nonconforming(AssertionError):
    """The target breaks `requirement`; says nothing about others that the test judges."""

    def __init__(self, requirement: str, message: str) -> None:
        super().__init__(message)
        self.requirement = requirement


@contextmanager
def clause(requirement: str) -> Iterator[None]:
    """Count a failure of the block against `requirement` alone; of nested blocks, the innermost counts.

    An exception because the response lacks what the test reads from it, such as a KeyError, is a failure as well.
    """
    try:
        yield
    except Nonconforming:
        raise
    except AssertionError as failure:
        raise Nonconforming(requirement, str(failure)) from failure
    except (LookupError, TypeError, ValueError, AttributeError) as failure:
        raise Nonconforming(requirement, f"the response is not as expected: {failure!r}") from failure


class Undecided(Skipped):
    """The requirement could not be tested: the target is slow, down or rate limited. Says nothing about conformance."""


def not_judged(reason: str) -> NoReturn:
    """End the test: this run lacks an option or a property of the target that the test needs."""
    pytest.skip(reason)


def as_markdown() -> str:
    """Return docs/requirements.md."""
    lines = [
        "# Requirements",
        "",
        "What `cdv-conformance` judges. How verdicts come about: [conformance](conformance.md). This page is made from",
        "`conformance/http/requirements.toml` by `cdv-conformance requirements`; a test compares them.",
        "",
        "The last column says which part of the contract a requirement comes from. The contract is not a document of",
        "this repository; this page is its wording, clause by clause. `http-api` is the part on the HTTP API: §1",
        "conventions, §2 authentication, §3 endpoints (with the endpoint's name), §4 error codes, §5 rate limits,",
        "sizes and CORS. `domain` is the part on identifiers, records, idempotency, cursors, the schema catalogue,",
        "media and events. `traps` is a list of mistakes that systems of this kind have made.",
    ]
    for prefix, group in GROUPS.items():
        lines += ["", f"## {group[0].upper()}{group[1:]}", "", "| id | level | what | source |", "|---|---|---|---|"]
        for found in requirements().values():
            if found.id.startswith(f"{prefix}-"):
                lines.append(f"| {found.id} | {found.level} | {found.clause.replace('|', '&#124;')} | {found.source} |")
    return "\n".join(lines) + "\n"
