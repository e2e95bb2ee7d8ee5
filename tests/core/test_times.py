"""RFC 3339 in, UTC with microseconds out."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdv_core.domain.times import format_time, parse_time
from cdv_core.errors import InvalidField


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_formatted_time_parses_to_the_same_time(moment):
    assert parse_time(format_time(moment), "t") == moment


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)), st.integers(-1439, 1439))
def test_a_time_with_any_offset_is_converted_to_utc(naive, minutes):
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    text = f"{naive.isoformat(timespec='microseconds')}{sign}{hours:02}:{rest:02}"
    parsed = parse_time(text, "t")
    assert parsed == moment
    assert parsed.tzinfo is UTC


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T02:53:29Z", "2026-11-24T02:53:29.000000Z"),
        ("2026-11-24t02:53:29z", "2026-11-24T02:53:29.000000Z"),
        ("2026-11-24T02:53:29.5Z", "2026-11-24T02:53:29.500000Z"),
        ("2026-11-24T02:53:29.1234567Z", "2026-11-24T02:53:29.123456Z"),
        ("2026-11-24T02:53:29-00:00", "2026-11-24T02:53:29.000000Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_formatted_in_utc_with_microseconds(text, expected):
    assert format_time(parse_time(text, "t")) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "RFC 3339"),
        ("2026-11-24", "RFC 3339"),
        ("2026-11-24T02:53:29", "RFC 3339"),
        ("2026-11-24 02:53:29Z", "RFC 3339"),
        ("2026-11-24T02:53Z", "RFC 3339"),
        ("2026-11-24T02:53:29.Z", "RFC 3339"),
        ("2026-11-24T02:53:29,5Z", "RFC 3339"),
        ("2026-11-24T02:53:29+0530", "RFC 3339"),
        ("20261124T025329Z", "RFC 3339"),
        ("2026-W48-2T02:53:29Z", "RFC 3339"),
        ("٢٠٢٦-11-24T02:53:29Z", "RFC 3339"),
        ("2026-11-24T02:53:29Z\n", "RFC 3339"),
        ("1764000000", "RFC 3339"),
        ("2026-02-30T00:00:00Z", "must be a date and time that exists, in the years 1 to 9999"),
        ("2026-11-24T24:00:00Z", "must be a date and time that exists, in the years 1 to 9999"),
        ("2026-11-24T23:59:60Z", "must be a date and time that exists, in the years 1 to 9999"),
        ("2026-11-24T00:00:00+24:00", "RFC 3339"),
        ("2026-11-24T00:00:00+00:60", "RFC 3339"),
        ("0000-01-01T00:00:00Z", "must be a date and time that exists, in the years 1 to 9999"),
        ("0001-01-01T00:00:00+01:00", "must be a date and time that exists, in the years 1 to 9999"),
        ("9999-12-31T23:59:59-01:00", "must be a date and time that exists, in the years 1 to 9999"),
    ],
)
def test_a_time_that_is_not_rfc_3339_or_does_not_exist_is_refused_naming_the_field(text, reason):
    with pytest.raises(InvalidField, match=reason) as caught:
        parse_time(text, "since")
    assert caught.value.field == "since"


@given(moment=st.datetimes(timezones=st.timezones()))
def test_a_datetime_is_converted_to_utc_or_refused_if_out_of_range(moment):
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        with pytest.raises(InvalidField, match="must be a date and time that exists, in the years 1 to 9999"):
            parse_time(moment, "t")
        return
    parsed = parse_time(moment, "t")
    assert (parsed, parsed.tzinfo) == (utc, UTC)


def test_a_datetime_without_a_time_zone_is_refused():
    with pytest.raises(InvalidField, match="createdAt: must have a time zone"):
        parse_time(datetime(2026, 11, 24, 2, 53), "createdAt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("now", "must be an RFC 3339 time with an offset (such as 2026-11-24T02:53:29Z)"),
        ("2026-02-30T00:00:00Z", "must be a date and time that exists, in the years 1 to 9999"),
    ],
)
def test_the_error_reason_describes_the_expected_time(text, reason):
    with pytest.raises(InvalidField) as caught:
        parse_time(text, "t")
    assert caught.value.reason == reason
