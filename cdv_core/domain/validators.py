"""Validators: a schema document made into something that says what is wrong with a value."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType

from cdv_core.domain.generated_code import Broken, bind, generate
from cdv_core.domain.json_schema import SchemaDocument, read_schema
from cdv_core.domain.lowering import lower
from cdv_core.domain.schema_cost import check_cost
from cdv_core.domain.violations import find_violations
from cdv_core.errors import Violation


class Validator:
    """Checks values against one compiled schema. Immutable, safe to share between threads.

    `code` is what takes long to make, and may be handed to compile_validator() elsewhere.
    """

    __slots__ = ("_check", "code", "document")

    def __init__(self, document: SchemaDocument, code: CodeType, check: Callable[[object], object]) -> None:
        self.document = document
        self.code = code
        self._check = check

    def violations(self, value: object) -> tuple[Violation, ...]:
        """Return every rule that `value` breaks, () if none. `value` is plain JSON, at most 32 levels deep."""
        try:
            self._check(value)
        except Broken:
            # Two judges of one schema: should they ever disagree, the value stays refused.
            return find_violations(self.document, value) or (Violation("", "schema", "does not fit the schema"),)
        return ()


def compile_validator(document: object, code: CodeType | None = None) -> Validator:
    """Return the validator of the JSON Schema `document`, a JSON value.

    `code`: what an earlier call made of the same document, so that it need not be made, nor the document be judged,
    again. Raises SchemaRefused: it is no draft-07 schema, or one that cannot be enforced, or not within bounds.
    """
    schema = read_schema(document)
    if code is None:
        check_cost(schema)
    lowered = lower(schema)
    made = generate(lowered) if code is None else code
    return Validator(schema, made, bind(made, lowered))
