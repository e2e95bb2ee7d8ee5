"""Generated code: fastjsonschema turns a schema into Python source; nothing of it runs before every piece is known.

Three walls, each enough by itself: the schema is lowered first, so that hardly any text of its author reaches the
source; the syntax tree may hold only the constructs, names and calls listed here; and it runs without builtins but
those that validation needs. See docs/adr/010-schema-patterns.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from types import MappingProxyType, NoneType
from typing import Final

import fastjsonschema

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
_STATEMENTS: Final = (
    ast.Module, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.If, ast.For, ast.Try, ast.ExceptHandler,
    ast.Raise, ast.Assign, ast.AugAssign, ast.Expr, ast.Pass, ast.Break,
)  # fmt: skip
_EXPRESSIONS: Final = (
    ast.Name, ast.Constant, ast.Call, ast.Attribute, ast.Subscript, ast.Slice, ast.Compare, ast.BoolOp, ast.UnaryOp,
    ast.BinOp, ast.IfExp, ast.List, ast.Tuple, ast.Dict, ast.GeneratorExp, ast.comprehension, ast.expr_context,
    ast.boolop, ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip
_VARIABLE: Final = re.compile(r"data[A-Za-z0-9_]*|validate(?:___definitions_d[0-9]+)?|quotient|fn|var|[kv]", re.ASCII)
_GIVEN: Final = frozenset({"custom_formats", "name_prefix", "REGEX_PATTERNS", "NoneType", "Broken"})


def generate(lowered: Lowered) -> Callable[[object], object]:
    """Return a function that raises Broken when its argument does not fit the schema.

    Raises SchemaRefused: the generator cannot translate it, or wrote something that is not known to be harmless.
    """
    try:
        source = fastjsonschema.compile_to_code(
            lowered.schema, formats=lowered.checks, use_default=False, detailed_exceptions=False
        )
        tree = _reduced(ast.parse(source))
        _check(tree)
        code = compile(tree, "<schema>", "exec")
    except SchemaRefused:
        raise
    except Exception as wrong:  # the generator and Python's compiler may fail in any way on a text from outside
        raise SchemaRefused([f"the document cannot be compiled: {wrong!r}"]) from wrong
    namespace: dict[str, object] = {
        "__builtins__": dict(_CALLED),
        "REGEX_PATTERNS": lowered.patterns,
        "NoneType": NoneType,
        "Broken": Broken,
    }
    exec(code, namespace)  # noqa: S102 - checked above, piece by piece
    validate = namespace.get("validate")
    if not callable(validate):
        raise SchemaRefused(["the document makes no code"])
    return partial(validate, custom_formats=lowered.checks)


def _reduced(tree: ast.Module) -> ast.Module:
    """Return the module without its head (imports, version, patterns) and without what only serves its messages."""
    tree.body = [it for it in tree.body if isinstance(it, ast.FunctionDef)]
    return ast.fix_missing_locations(_Reduction().visit(tree))  # type: ignore[no-any-return]


class _Reduction(ast.NodeTransformer):
    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        return ast.copy_location(ast.Raise(exc=ast.Name("Broken", ast.Load())), node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.ExceptHandler:
        self.generic_visit(node)
        node.type = ast.Name("Broken", ast.Load())
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id.startswith("validate"):
            del node.args[2:]  # the name to put into messages
        return node


def _check(tree: ast.Module) -> None:
    """Raises SchemaRefused: something in the tree is not on the lists."""
    for node in ast.walk(tree):
        if not isinstance(node, (*_STATEMENTS, *_EXPRESSIONS)) or not _is_known(node):
            raise SchemaRefused([f"the document makes code that is not known to be harmless: {ast.dump(node)[:200]}"])


def _is_known(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            return name in _GIVEN or name in _CALLED or _VARIABLE.fullmatch(name) is not None
        case ast.FunctionDef(name=name, decorator_list=decorators):
            return not decorators and _VARIABLE.fullmatch(name) is not None
        case ast.arg(arg=name):
            return name in _GIVEN or _VARIABLE.fullmatch(name) is not None
        case ast.Attribute(attr=name):
            return name in _METHODS
        case ast.Call(func=ast.Name() | ast.Attribute(), keywords=[]):
            return True
        case ast.Call(func=ast.Subscript(value=ast.Name(id="custom_formats")), keywords=[]):
            return True
        case ast.Call():
            return False
        case ast.Constant(value=value):
            return value is None or isinstance(value, str | int | float)
    return True
