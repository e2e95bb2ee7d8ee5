"""JSON values to try, and other ways to write the same value."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis.strategies import SearchStrategy

from conformance import strategies

_DOUBLE_EXACT = 2**53  # below, a double and the text it is written as are the same integer


def exact(value: Any) -> Any:
    """Return the value with large whole floats as integers: a text such as 1e18 is not read alike everywhere."""
    if isinstance(value, float) and value.is_integer() and abs(value) >= _DOUBLE_EXACT:
        return int(value)
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, dict):
        return {name: exact(item) for name, item in value.items()}
    return value


JSON_VALUES: SearchStrategy[Any] = strategies.JSON_VALUES.map(exact)
JSON_OBJECTS: SearchStrategy[dict[str, Any]] = strategies.JSON_OBJECTS.map(exact)
NUMBERS: SearchStrategy[int | float] = strategies.NUMBERS.map(exact)


def profiles(did: str = "") -> SearchStrategy[dict[str, Any]]:
    """Return profiles, with members beyond the schema's."""
    return records_of("com.registryaccord.profile", did)


def records_of(collection: str, did: str) -> SearchStrategy[dict[str, Any]]:
    return strategies.records_of(collection, did).map(exact)


def same(found: Any, sent: Any) -> bool:
    """Tell whether two JSON values are one; 1 and 1.0 are, 1 and true are not, and texts count by the character."""
    if isinstance(sent, bool) or isinstance(found, bool) or sent is None or found is None:
        return found is sent
    if isinstance(sent, dict):
        return isinstance(found, dict) and set(found) == set(sent) and all(same(found[it], sent[it]) for it in sent)
    if isinstance(sent, list):
        return isinstance(found, list) and len(found) == len(sent) and all(map(same, found, sent))
    return type(found) in {int, float} and found == sent if isinstance(sent, int | float) else bool(found == sent)


def respelt(value: Any, seed: int) -> str:
    """Return JSON of the same value: other order of members, other numbers and escapes, other white space."""
    return _respelt(value, Random(seed))


def _respelt(value: Any, random: Random) -> str:
    space = random.choice(["", " ", "\n", "\t"])
    if isinstance(value, dict):
        names = random.sample([*value], len(value))
        members = (f"{_respelt_text(name, random)}{space}:{_respelt(value[name], random)}" for name in names)
        return "{" + space + f",{space}".join(members) + "}"
    if isinstance(value, list):
        return f"[{space}" + f"{space},".join(_respelt(item, random) for item in value) + "]"
    if isinstance(value, str):
        return _respelt_text(value, random)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return random.choice(number_spellings(value))
    return json.dumps(value)


def number_spellings(number: float) -> list[str]:
    """Return JSON texts of one number; whole ones beyond a double's exactness only as integers."""
    if isinstance(number, float) and not number.is_integer():
        text = repr(number)
        return [text, text.replace("e", "E"), *([f"{text}0", f"{text}e0", f"{text}E+00"] if "e" not in text else [])]
    whole = str(int(number))
    if abs(int(number)) >= _DOUBLE_EXACT:
        return [whole]
    others = [f"{whole}0e-1"] if number else ["-0", "-0.0", "0E5"]
    return [whole, f"{whole}.0", f"{whole}e0", f"{whole}.00E+0", *others]


def _respelt_text(text: str, random: Random) -> str:
    ascii_only = random.random() < 0.5
    plain = json.dumps(text, ensure_ascii=ascii_only)
    if random.random() < 0.5 and text[:1].isascii() and text[:1].isalnum():
        return f'"\\u{ord(text[0]):04X}' + plain[2:]
    return plain.replace("/", "\\/") if random.random() < 0.5 else plain
