"""On generated schemas and values, our validation agrees with the reference implementation."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cdv_core.domain.json_schema import SchemaRefused
from cdv_core.domain.validators import Validator, compile_validator
from cdv_core.domain.violations import find_violations
from tests.core.schema_strategies import schemas, values

_SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]


def _compiled(schema: object) -> Validator:
    try:
        return compile_validator(schema)
    except SchemaRefused:
        assume(False)
        raise


def _agree(schema: Any, several: list[object]) -> None:
    validator = _compiled(schema)
    reference = jsonschema.Draft7Validator(schema)
    for value in several:
        wanted = reference.is_valid(value)
        assert (validator.violations(value) == ()) == wanted, value
        assert (find_violations(validator.document, value) == ()) == wanted, value


@settings(max_examples=60, deadline=None, suppress_health_check=_SLOW)
@given(schemas, st.lists(values, min_size=1, max_size=6))
def test_validation_agrees_with_the_reference_implementation(schema: Any, several: list[object]):
    _agree(schema, several)


@pytest.mark.long
@settings(max_examples=5_000, deadline=None, suppress_health_check=_SLOW)
@given(schemas, st.lists(values, min_size=1, max_size=10))
def test_validation_agrees_with_the_reference_implementation_on_many_examples(schema: Any, several: list[object]):
    _agree(schema, several)


@settings(max_examples=25, deadline=None, suppress_health_check=_SLOW)
@given(schemas, values)
def test_validation_does_not_change_the_value(schema: Any, value: object):
    validator = _compiled(schema)
    before = repr(value)
    validator.violations(value)
    assert repr(value) == before
