"""Validators: schema documents compiled to code that validates values."""

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

    `code`: the generated code, which is slow to make and can be passed to compile_validator() in another process.
    """

    __slots__ = ("_check", "code", "document")

    def __init__(self, document: SchemaDocument, code: CodeType, check: Callable[[object], object]) -> None:
        self.document = document
        self.code = code
        self._check = check

    def violations(self, value: object) -> tuple[Violation, ...]:
        """Return every rule that `value` violates, () if none. `value` is plain JSON, at most 32 levels deep."""
        try:
            self._check(value)
        except Broken:
            # Two implementations validate one schema: if they disagree, the value is refused.
            return find_violations(self.document, value) or (Violation("", "schema", "does not fit the schema"),)
        return ()


def compile_validator(document: object, code: CodeType | None = None) -> Validator:
    """Return the validator of the JSON Schema `document`, a JSON value.

    `code`: the code that an earlier call generated from the same document; its cost is then not checked again.
    Raises SchemaRefused: not a draft-07 schema, or one that cannot be enforced or exceeds a limit.
    """
    schema = read_schema(document)
    if code is None:
        check_cost(schema)
    lowered = lower(schema)
    compiled = generate(lowered) if code is None else code
    return Validator(schema, compiled, bind(compiled, lowered))
