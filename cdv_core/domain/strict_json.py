"""Strict JSON: decoding that refuses what two readers may understand differently, such as repeated members."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn


class RepeatedMember(ValueError):
    """A JSON object names a member twice; parsers differ in which of the two they use."""


def decode_json(encoded: bytes, *, parse_float: Callable[[str], float] = float) -> object:
    """Return the JSON value in `encoded`. `parse_float`: for numbers with a fraction or an exponent.

    Raises: RepeatedMember. ValueError: not JSON in UTF-8, NaN or Infinity, or nested too deeply.
    """
    try:
        return json.loads(
            encoded.decode(),
            object_pairs_hook=_unique_members,
            parse_float=parse_float,
            parse_constant=_refuse_constant,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise RepeatedMember(f"member {name!r} occurs twice")
            seen.add(name)
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
