"""Values crafted to make validation slow: each is validated within a bound of CPU time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cdv_core.domain.graphemes import count_graphemes
from cdv_core.domain.json_equality import equal, identity
from cdv_core.domain.validators import compile_validator

FLAG_HALF = "\U0001f1e6"


@contextmanager
def cpu_seconds(most: float) -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < most


def colliding_lists(number: int) -> list[list[int]]:
    """Return distinct lists whose hashes are the same as tuples, by solving CPython's tuple hash (xxHash) for b."""
    size, prime_1, prime_2, prime_5 = 2**64, 11400714785074694791, 14029467366897019727, 2870177450012600261
    inverse = pow(prime_2, -1, size)
    found: list[list[int]] = []
    first = 0
    while len(found) < number:
        first += 1
        sum_ = (prime_5 + first * prime_2) % size
        rotated = ((sum_ << 31) | (sum_ >> 33)) % size
        second = (12345 - rotated * prime_1) * inverse % size
        second -= size if second >= size // 2 else 0
        if abs(second) < 2**61 - 1 and second != -1:
            found.append([first, second])
    return found


@pytest.mark.parametrize(
    ("text", "clusters"),
    [
        (FLAG_HALF * 2, 1),
        (FLAG_HALF * 5, 3),
        (f"{FLAG_HALF * 2}\u0301{FLAG_HALF}", 2),
        (f"{FLAG_HALF}\u200d{FLAG_HALF * 2}", 2),
        (f"a{FLAG_HALF * 4}b", 4),
        ("e\u0301\r\n👨‍👩‍👧", 3),
    ],
)
def test_a_pair_of_regional_indicators_counts_as_one_grapheme(text: str, clusters: int) -> None:
    assert count_graphemes(text) == clusters


def test_a_long_run_of_flags_is_counted_in_linear_time() -> None:
    with cpu_seconds(3):  # 19 when each flag scanned all before it
        assert count_graphemes(FLAG_HALF * 65_001) == 32_501


@pytest.mark.parametrize("wrapped", [False, True])
def test_unique_items_is_fast_for_items_with_colliding_hashes(wrapped: bool) -> None:
    lists = colliding_lists(9_000)
    assert len({hash(tuple(each)) for each in lists}) == 1
    items: list[Any] = [{"v": each} for each in lists] if wrapped else list(lists)
    validator = compile_validator({"type": "array", "uniqueItems": True})
    with cpu_seconds(3):  # 6 to 23 as tuples in a set
        assert validator.violations(items) == ()
        assert [found.rule for found in validator.violations([*items, items[0]])] == ["uniqueItems"]


def test_the_search_for_violations_stops_at_its_bound() -> None:
    validator = compile_validator({"items": {"allOf": [{"maximum": number} for number in range(1, 200)]}})
    with cpu_seconds(10):  # 48 without a bound
        (stopped,) = validator.violations([*([1] * 120_000), 5_000])
    assert stopped.rule == "schema"
    (found, *_, more) = validator.violations([5_000, *([1] * 120_000)])
    assert (found.pointer, more.rule) == ("/0", "more")


def test_json_values_are_equal_by_value() -> None:
    assert equal({"a": [1, 2.0], "b": None}, {"b": None, "a": [1.0, 2]})
    assert equal(2**53 + 0.0, 2**53)
    different = [
        1,
        True,
        "1",
        "true",
        None,
        "null",
        0,
        False,
        [],
        {},
        "[]",
        [[]],
        {"a": 1},
        {"a": True},
        1.5,
        [1, 2],
        [12],
    ]
    assert len({identity(each) for each in different}) == len(different)
    assert not equal(2**53 + 1, 2.0**53)
