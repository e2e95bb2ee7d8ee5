"""The canonical form: equal JSON values have one CID, whatever their notation."""

import base64
import hashlib
import json
import math
from decimal import Decimal
from enum import Enum
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdv_core.domain.canonical import canonical_record, cid_of, parse_number
from cdv_core.domain.limits import INTEGER_MAX, INTEGER_MIN, RECORD_MAX_BYTES, RECORD_NESTING_MAX
from cdv_core.errors import InvalidField

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(INTEGER_MIN, INTEGER_MAX) | st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda number: not number.is_integer() or INTEGER_MIN <= number <= INTEGER_MAX
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
RECORDS = st.dictionaries(TEXT, VALUES, max_size=5)
DECODER = msgspec.json.Decoder(dict, float_hook=parse_number)


@given(RECORDS)
def test_canonical_json_is_unchanged_when_decoded_and_encoded_again(record):
    first = canonical_record(record)
    again = canonical_record(DECODER.decode(first.json))
    assert (again.value, again.json, again.cid) == (first.value, first.json, first.cid)
    assert canonical_record(msgspec.json.decode(first.json)).cid == first.cid


@given(RECORDS)
def test_canonical_json_decodes_to_the_same_value(record):
    assert json.loads(canonical_record(record).json) == json.loads(json.dumps(record))


@given(st.dictionaries(TEXT, VALUES, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_member_order_is_kept_and_does_not_change_the_cid(record, random):
    members = list(record.items())
    random.shuffle(members)
    shuffled = canonical_record(dict(members))
    assert shuffled.cid == canonical_record(record).cid
    assert list(shuffled.value) == [name for name, _ in members]


@given(st.integers(INTEGER_MIN, INTEGER_MAX), st.integers(0, 25))
@example(9007199254740993, 1)
@example(INTEGER_MAX, 1)
@example(INTEGER_MIN, 0)
@example(0, 3)
def test_an_integer_has_one_encoding_in_every_notation(number, zeros):
    spellings = [f"{number}.{'0' * (zeros + 1)}", f"{number}e0", f"{number}E+00"]
    if number:
        spellings.append(f"{number}{'0' * zeros}e-{zeros}")
    expected = cid_of({"n": number})
    for spelling in spellings:
        record = canonical_record(DECODER.decode(f'{{"n": {spelling}}}'.encode()))
        assert record.json == f'{{"n":{number}}}'.encode()
        assert record.cid == expected


@given(st.integers(-(2**60), 2**60), st.integers(1, 40))
def test_a_fraction_becomes_the_nearest_double_or_an_integer_if_that_is_whole(whole, digits):
    text = f"{whole}.{'9' * digits}"
    number = parse_number(text)
    assert number == float(text)
    assert isinstance(number, int) == float(text).is_integer()


@pytest.mark.parametrize("text", ["-0.0", "-0", "0e99", "1e-400"])
def test_every_notation_of_zero_is_encoded_as_0(text):
    assert canonical_record(DECODER.decode(f'{{"n": {text}}}'.encode())).json == b'{"n":0}'


def test_integers_beyond_double_precision_are_parsed_exactly():
    assert parse_number("9007199254740993.0") == 9007199254740993
    assert parse_number("9007199254740992.0") == 9007199254740992
    assert parse_number("9007199254740993.5") == 9007199254740994
    assert parse_number("9223372036854775807.0") == 2**63 - 1
    assert parse_number("1e400") == math.inf
    assert parse_number("1e308") == int(1e308)
    assert parse_number("0.5") == 0.5


def test_the_cid_is_version_one_dag_cbor_sha256():
    cbor = bytes.fromhex("a1616101")  # {"a": 1}
    digest = hashlib.sha256(cbor).digest()
    expected = "b" + base64.b32encode(bytes.fromhex("01711220") + digest).decode().lower().rstrip("=")
    assert canonical_record({"a": 1}).cid == expected
    assert expected.startswith("bafyrei")
    assert len(expected) == 59


def test_keys_are_sorted_by_length_then_bytes_in_the_hashed_form():
    cbor = bytes.fromhex("a3" + "6162" + "01" + "62" + "6161" + "02" + "62c3a9" + "03")
    digest = hashlib.sha256(cbor).digest()
    expected = "b" + base64.b32encode(bytes.fromhex("01711220") + digest).decode().lower().rstrip("=")
    assert canonical_record({"é": 3, "aa": 2, "b": 1}).cid == expected


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        ({"a": 2**63}, "record/a", "must fit in a signed 64-bit integer"),
        ({"a": -(2**63) - 1}, "record/a", "must fit in a signed 64-bit integer"),
        ({"a": 2.0**63}, "record/a", "must fit in a signed 64-bit integer"),
        ({"a": [0, math.inf]}, "record/a/1", "must be a finite number"),
        ({"a": -math.inf}, "record/a", "must be a finite number"),
        ({"a": math.nan}, "record/a", "must be a finite number"),
        ({"a": "x\x00"}, "record/a", "must not contain U+0000"),
        ({"\x00": 1}, "record/\x00", "must not contain U+0000"),
        ({"a": "\ud800"}, "record/a", "must be valid Unicode, without lone surrogates"),
        ({"a": {"\udfff": 1}}, "record/a/\\udfff", "must be valid Unicode, without lone surrogates"),
        ({"a~b/c": b"bytes"}, "record/a~0b~1c", "must be a JSON value; bytes is not a JSON type"),
        ({1: "x"}, "record/1", "member names must be strings"),
        ({"a": {1, 2}}, "record/a", "must be a JSON value; set is not a JSON type"),
        ({"a": Decimal(1)}, "record/a", "must be a JSON value; Decimal is not a JSON type"),
    ],
)
def test_an_unsupported_value_is_refused_with_its_path(value, field, reason):
    with pytest.raises(InvalidField) as caught:
        canonical_record(value)
    assert (caught.value.field, caught.value.reason) == (field, reason)


def test_integers_at_the_bounds_and_tuples_are_accepted():
    record = canonical_record({"a": [INTEGER_MAX, INTEGER_MIN], "t": ("x", True, None)})
    assert record.value == {"a": [2**63 - 1, -(2**63)], "t": ["x", True, None]}
    assert record.value["t"][1] is True


def nested(levels):
    value: object = 1
    for level in range(levels - 1):
        value = [value] if level % 2 else {"k": value}
    return {"r": value}


def test_nesting_is_bounded_and_the_record_is_the_first_level():
    assert canonical_record(nested(RECORD_NESTING_MAX)).value == nested(RECORD_NESTING_MAX)
    with pytest.raises(InvalidField, match="must not nest more than 32 levels deep") as caught:
        canonical_record(nested(RECORD_NESTING_MAX + 1))
    assert len(caught.value.field) < 300


def test_a_list_counts_as_a_nesting_level():
    value: object = []
    for _ in range(RECORD_NESTING_MAX - 2):
        value = [value]
    assert canonical_record({"a": value})
    with pytest.raises(InvalidField) as caught:
        canonical_record({"a": [value]})
    assert caught.value.reason == "must not nest more than 32 levels deep"


def test_the_encoded_size_is_bounded():
    overhead = len(b'{"a":""}')
    assert len(canonical_record({"a": "x" * (RECORD_MAX_BYTES - overhead)}).json) == RECORD_MAX_BYTES
    with pytest.raises(InvalidField) as caught:
        canonical_record({"a": "x" * (RECORD_MAX_BYTES - overhead + 1)})
    assert caught.value.field == "record"
    assert caught.value.reason == "must be at most 262144 bytes as compact JSON, and is 262145"


@pytest.mark.parametrize(
    "many",
    [
        [0] * (RECORD_MAX_BYTES // 2),
        {str(number): 0 for number in range(RECORD_MAX_BYTES // 2)},
        [[0]] * (RECORD_MAX_BYTES // 4),
    ],
    ids=["elements", "members", "nested"],
)
def test_a_record_with_too_many_elements_for_its_size_is_refused_without_walking_all_of_them(many):
    with pytest.raises(InvalidField) as caught:
        canonical_record({"many": many, "after": "\x00"})
    assert (caught.value.field, caught.value.reason) == ("record", "must be at most 262144 bytes as compact JSON")


def test_the_record_with_the_most_elements_for_its_size_is_accepted():
    most = (RECORD_MAX_BYTES - len(b'{"a":[]}') + 1) // len(b"0,")
    assert len(canonical_record({"a": [0] * most}).json) in {RECORD_MAX_BYTES - 1, RECORD_MAX_BYTES}


def test_the_size_counts_utf_8_bytes():
    with pytest.raises(InvalidField):
        canonical_record({"a": "é" * (RECORD_MAX_BYTES // 2)})


def test_str_and_int_subclasses_are_stored_as_plain_values():
    class Name(str):
        __slots__ = ()

    record = canonical_record({Name("a"): Name("b"), "n": HTTPStatus.OK})
    assert record.json == b'{"a":"b","n":200}'
    assert [type(part) for pair in record.value.items() for part in pair] == [str, str, str, int]


class Kind(str, Enum):  # noqa: UP042 - as programs have them: str() of a member is its name, unlike a StrEnum's
    NOTE = "note"
    NUL = "\x00"


class Shout(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


@pytest.mark.parametrize("note", [Kind.NOTE, Shout("note")])
def test_a_str_subclass_is_stored_by_its_value_and_not_by_str(note):
    record = canonical_record({note: note, "list": [note]})
    assert record.json == b'{"note":"note","list":["note"]}' == json.dumps(record.value, separators=(",", ":")).encode()
    assert record.cid == canonical_record({"note": "note", "list": ["note"]}).cid
    assert [type(part) for pair in record.value.items() for part in pair] == [str, str, str, list]


def test_a_str_subclass_is_validated_by_its_value():
    refused: list[tuple[dict[str, Any], str]] = [
        ({Kind.NOTE: Kind.NUL}, "record/note"),
        ({Kind.NUL: 1}, "record/\x00"),
    ]
    for value, field in refused:
        with pytest.raises(InvalidField, match=r"must not contain U\+0000") as caught:
            canonical_record(value)
        assert caught.value.field == field


def test_the_field_name_in_errors_can_be_given():
    with pytest.raises(InvalidField) as caught:
        canonical_record({"a": math.nan}, "body")
    assert caught.value.field == "body/a"
