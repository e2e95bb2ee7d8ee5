"""Strategies for JSON values, comparison of JSON values, and other serialisations of the same value."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis.strategies import SearchStrategy

from conformance import strategies

_DOUBLE_EXACT = 2**53  # below it, every integer is exactly a double


def with_exact_integers(value: Any) -> Any:
    """Return the value with large integral floats as integers: parsers differ on numbers such as 1e18."""
    if isinstance(value, float) and value.is_integer() and abs(value) >= _DOUBLE_EXACT:
        return int(value)
    if isinstance(value, list):
        return [with_exact_integers(item) for item in value]
    if isinstance(value, dict):
        return {name: with_exact_integers(item) for name, item in value.items()}
    return value


JSON_VALUES: SearchStrategy[Any] = strategies.JSON_VALUES.map(with_exact_integers)
JSON_OBJECTS: SearchStrategy[dict[str, Any]] = strategies.JSON_OBJECTS.map(with_exact_integers)
NUMBERS: SearchStrategy[int | float] = strategies.NUMBERS.map(with_exact_integers)


def profiles(did: str = "") -> SearchStrategy[dict[str, Any]]:
    """Return profiles, with members that the schema does not name."""
    return records_of("com.registryaccord.profile", did)


def records_of(collection: str, did: str) -> SearchStrategy[dict[str, Any]]:
    return strategies.records_of(collection, did).map(with_exact_integers)


def same_json(found: Any, sent: Any) -> bool:
    """Return whether two JSON values are equal. 1 equals 1.0 but not true; strings are compared by code points."""
    if isinstance(sent, bool) or isinstance(found, bool) or sent is None or found is None:
        return found is sent
    if isinstance(sent, dict):
        return (
            isinstance(found, dict) and set(found) == set(sent) and all(same_json(found[it], sent[it]) for it in sent)
        )
    if isinstance(sent, list):
        return isinstance(found, list) and len(found) == len(sent) and all(map(same_json, found, sent))
    return type(found) in {int, float} and found == sent if isinstance(sent, int | float) else bool(found == sent)


def reserialized(value: Any, seed: int) -> str:
    """Return JSON of the same value with another order of members, other number forms, escapes and white space."""
    return _reserialized(value, Random(seed))


def _reserialized(value: Any, random: Random) -> str:
    space = random.choice(["", " ", "\n", "\t"])
    if isinstance(value, dict):
        names = random.sample([*value], len(value))
        members = (f"{_reserialized_text(name, random)}{space}:{_reserialized(value[name], random)}" for name in names)
        return "{" + space + f",{space}".join(members) + "}"
    if isinstance(value, list):
        return f"[{space}" + f"{space},".join(_reserialized(item, random) for item in value) + "]"
    if isinstance(value, str):
        return _reserialized_text(value, random)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return random.choice(number_spellings(value))
    return json.dumps(value)


def number_spellings(number: float) -> list[str]:
    """Return JSON texts of the same number; integers that are not exactly a double only in integer form."""
    if isinstance(number, float) and not number.is_integer():
        text = repr(number)
        return [text, text.replace("e", "E"), *([f"{text}0", f"{text}e0", f"{text}E+00"] if "e" not in text else [])]
    whole = str(int(number))
    if abs(int(number)) >= _DOUBLE_EXACT:
        return [whole]
    others = [f"{whole}0e-1"] if number else ["-0", "-0.0", "0E5"]
    return [whole, f"{whole}.0", f"{whole}e0", f"{whole}.00E+0", *others]


def _reserialized_text(text: str, random: Random) -> str:
    ascii_only = random.random() < 0.5
    plain = json.dumps(text, ensure_ascii=ascii_only)
    if random.random() < 0.5 and text[:1].isascii() and text[:1].isalnum():
        return f'"\\u{ord(text[0]):04X}' + plain[2:]
    return plain.replace("/", "\\/") if random.random() < 0.5 else plain
