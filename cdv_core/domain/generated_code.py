"""Generated code: fastjsonschema turns a schema into Python source; nothing of it runs before every piece is known.

Three walls, each enough by itself: the schema is lowered first, so that hardly any text of its author reaches the
source; the syntax tree may hold only the constructs, names and calls listed here; and it runs without builtins but
those that validation needs. See docs/adr/010-schema-patterns.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from types import CodeType, MappingProxyType, NoneType
from typing import Any, Final

import fastjsonschema

from cdv_core.domain.json_equality import identity
from cdv_core.domain.json_schema import SchemaRefused
from cdv_core.domain.lowering import Lowered


class Broken(Exception):
    """The value does not fit. It says no more: what is wrong is found by cdv_core/domain/violations.py."""


_CALLED: Final = MappingProxyType(
    {
        it.__name__: it
        for it in (
            isinstance, len, set, frozenset, tuple, dict, list, enumerate, hasattr, int, float, bool, str, repr, Decimal
        )
    }
)  # fmt: skip
_METHODS: Final = frozenset({"search", "keys", "items", "get", "remove", "is_integer"})
# Nothing in these but their parts could do harm.
_ALWAYS_KNOWN: Final = frozenset(
    {
        ast.Module, ast.arguments, ast.Return, ast.If, ast.For, ast.Try, ast.ExceptHandler, ast.Raise, ast.Assign,
        ast.AugAssign, ast.Expr, ast.Pass, ast.Break, ast.Subscript, ast.Slice, ast.Compare, ast.BoolOp, ast.UnaryOp,
        ast.BinOp, ast.IfExp, ast.List, ast.Tuple, ast.Dict, ast.GeneratorExp, ast.comprehension, ast.And, ast.Or,
        ast.Not, ast.USub, ast.Add, ast.Sub, ast.Div, ast.Mod, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
        ast.Is, ast.IsNot, ast.In, ast.NotIn,
    }
)  # fmt: skip
_RAISING: Final = re.compile(r"^( *)raise JsonSchemaValueException\(.*", re.MULTILINE)
_CATCHING: Final = re.compile(r"except \(JsonSchemaValueException, JsonSchemaValuesException\):")
_CALLING: Final = re.compile(r"^( *validate\w*\(\w+), custom_formats, .*", re.MULTILINE)
# How it makes items comparable, for `uniqueItems`: as tuples and frozensets, whose hashes can be made to collide.
_COMPARING: Final = re.compile(r"^( *)def fn\(var\): .*", re.MULTILINE)
_VARIABLE: Final = re.compile(r"data[A-Za-z0-9_]*|validate(?:___definitions_d[0-9]+)?|quotient|fn|var|[kv]", re.ASCII)
_GIVEN: Final = frozenset({"custom_formats", "name_prefix", "REGEX_PATTERNS", "NoneType", "Broken", "identity"})


def generate(lowered: Lowered) -> CodeType:
    """Return the code that checks values against the schema, compiled and not yet run.

    Raises SchemaRefused: the generator cannot translate it, or wrote something that is not known to be harmless.
    """
    try:
        source = fastjsonschema.compile_to_code(
            lowered.schema, formats=lowered.checks, use_default=False, detailed_exceptions=False
        )
        tree = ast.parse(_reduced(source))
        _check(tree)
        return compile(tree, "<schema>", "exec")
    except SchemaRefused:
        raise
    except Exception as wrong:  # the generator and Python's compiler may fail in any way on a text from outside
        raise SchemaRefused([f"the document cannot be compiled: {wrong!r}"]) from wrong


def bind(code: CodeType, lowered: Lowered) -> Callable[[object], object]:
    """Return the function that `code`, which generate() made of `lowered`, defines: it raises Broken at a misfit."""
    namespace: dict[str, object] = {
        "__builtins__": dict(_CALLED),
        "REGEX_PATTERNS": lowered.patterns,
        "NoneType": NoneType,
        "Broken": Broken,
        "identity": identity,
    }
    exec(code, namespace)  # noqa: S102 - checked, piece by piece
    validate = namespace.get("validate")
    if not callable(validate):
        raise SchemaRefused(["the document makes no code"])
    return partial(validate, custom_formats=lowered.checks)


def _reduced(source: str) -> str:
    """Return the source without its head (imports, version, patterns) and without what only serves its messages.

    The generator writes one statement a line. Whatever else a line may hold is judged with the rest, by _check.
    """
    _, _, functions = source.partition("\nNoneType = type(None)\n")
    functions = _RAISING.sub(r"\1raise Broken", functions)
    functions = _COMPARING.sub(r"\1fn = identity", functions)
    functions = _CATCHING.sub("except Broken:", functions)
    return _CALLING.sub(r"\1, custom_formats)", functions)


def _check(tree: ast.Module) -> None:
    """Raises SchemaRefused: something in the tree is not on the lists."""
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if not (kind in _ALWAYS_KNOWN or (kind in _SOMETIMES_KNOWN and _SOMETIMES_KNOWN[kind](node))):
            raise SchemaRefused([f"the document makes code that is not known to be harmless: {ast.dump(node)[:200]}"])
        for name in node._fields:
            part = getattr(node, name)
            if isinstance(part, list):
                waiting += part
            elif isinstance(part, ast.AST) and not isinstance(part, ast.expr_context):
                waiting.append(part)


def _is_name(name: str) -> bool:
    return name in _GIVEN or name in _CALLED or _VARIABLE.fullmatch(name) is not None


def _is_function(node: ast.FunctionDef) -> bool:
    return not node.decorator_list and _VARIABLE.fullmatch(node.name) is not None


def _is_call(node: ast.Call) -> bool:
    match node.func:
        case ast.Name() | ast.Attribute() | ast.Subscript(value=ast.Name(id="custom_formats")):
            return not node.keywords
    return False


_SOMETIMES_KNOWN: Final[Mapping[type[ast.AST], Callable[[Any], bool]]] = MappingProxyType(
    {
        ast.Name: lambda node: _is_name(node.id),
        ast.arg: lambda node: _is_name(node.arg),
        ast.Attribute: lambda node: node.attr in _METHODS,
        ast.FunctionDef: _is_function,
        ast.Call: _is_call,
        ast.Constant: lambda node: node.value is None or isinstance(node.value, str | int | float),
    }
)
