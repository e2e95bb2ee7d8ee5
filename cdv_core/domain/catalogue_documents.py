"""Catalogue documents: the JSON texts that a catalogue consists of, and the errors when they cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdv_core.domain.strict_json import decode_json


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Why a catalogue is refused. `document`: a path relative to the index, or the index. `reason`: readable text."""

    document: str
    reason: str

    def __str__(self) -> str:
        return f"{self.document}: {self.reason}"


class CatalogueRefused(Exception):
    """The catalogue cannot be used. `problems` lists everything that is wrong with it and is never empty."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def parse_document(text: bytes) -> object:
    """Return the JSON value of a catalogue document; a number without a fractional part becomes an integer.

    Raises ValueError: not JSON in UTF-8, a repeated member, a number that is not finite, or nested too deeply.
    """
    return decode_json(text, parse_float=_parse_number)


def _parse_number(text: str) -> int | float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(f"{text} is too large a number")
    return int(number) if number.is_integer() else number
