"""How `make flood` computes the recovery time."""

import pytest

from tests.load.flood import Phase, _recovery_seconds


@pytest.mark.parametrize(
    ("slow_at", "seconds"),
    [([], 0.0), ([0.1], 0.0), ([0.1, 0.2], 1.0), ([3.5, 3.6], 4.0), ([3.9, 4.1], 0.0)],
)
def test_a_second_is_bad_when_more_than_one_response_in_twenty_is_slow(slow_at: list[float], seconds: float):
    after = Phase()
    for number in range(6 * 20 - len(slow_at)):
        after.note(100 + number / 20, 200, 1.0)
    for at in slow_at:
        after.note(100 + at, 200, 9.0)
    assert _recovery_seconds(after, 100.0, 8.0) == seconds


def test_refusals_count_as_bad_however_fast():
    after = Phase()
    for _ in range(3):
        after.note(102.5, 503, 1.0)
    assert _recovery_seconds(after, 100.0, 8.0) == 3.0
