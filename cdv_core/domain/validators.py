"""Validators: a schema document made into a function that says what is wrong with a value."""

from __future__ import annotations

from collections.abc import Callable

import fastjsonschema

from cdv_core.domain.formats import FORMATS
from cdv_core.errors import Violation


class Validator:
    """Checks values against one compiled schema. Immutable, safe to share between threads."""

    def __init__(self, check: Callable[[object], object]) -> None:
        self._check = check

    def violations(self, value: object) -> tuple[Violation, ...]:
        """Return every rule that `value` breaks, () if none."""
        try:
            self._check(value)
        except fastjsonschema.JsonSchemaValueException as broken:
            pointer = "".join(f"/{part}" for part in broken.path[1:])
            return (Violation(pointer, str(broken.rule), broken.message),)
        return ()


def compile_validator(document: object) -> Validator:
    return Validator(fastjsonschema.compile(document, formats=dict(FORMATS), use_default=False))
