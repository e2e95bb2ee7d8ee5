"""Documents: the JSON texts that a catalogue is made of, and what is said when they cannot be used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Why a catalogue is refused: `document` is a path below the index or the index itself, `reason` is for people."""

    document: str
    reason: str

    def __str__(self) -> str:
        return f"{self.document}: {self.reason}"


class CatalogueRefused(Exception):
    """The catalogue may not be used. `problems` lists everything that is wrong with it, never nothing."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def parse_document(text: bytes) -> object:
    """Return the JSON value of a catalogue's document, a number without a fractional part as an integer.

    Raises ValueError: not JSON in UTF-8, a member named twice, a number that is not finite, or nested too deeply.
    """
    try:
        return json.loads(text.decode(), object_pairs_hook=_members, parse_float=_number, parse_constant=_not_a_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"member {next(it for it in names if names.count(it) > 1)!r} occurs twice")
    return members


def _number(text: str) -> int | float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(f"{text} is too large a number")
    return int(number) if number.is_integer() else number


def _not_a_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")
