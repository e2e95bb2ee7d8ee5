"""No text of a schema is ever executed: it is treated as data, or the document is refused."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import fastjsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdv_core.domain.generated_code import Broken, bind, generate
from cdv_core.domain.json_schema import SchemaRefused
from cdv_core.domain.lowering import Lowered
from cdv_core.domain.validators import compile_validator

HOSTILE = [
    '"', "'", '"""', "\\", '\\"', "\n", "\r\n", "\u2028", "\x00", "\x0c", "{", "}", "{}", "{0}", "{data}", "{variable}",
    "{data.__class__}", "{data.__globals__[x]}", '"+str(data)+"', '" + __import__("os").system("false") + "',
    "\\N{BULLET}",
    '"); raise SystemExit; ("', "'); import os; ('", "\nimport os\n", "\\\nimport os", "#", "%s", "é", "😀",
    "__class__",
    "'''\nimport os\n'''", "{0.__class__.__mro__}", "{name}", "{definition}", "f'{1}'", "\\x22", "\\u0022",
    "data", "custom_formats",
    "REGEX_PATTERNS", "__builtins__", "lambda: 1", "validate", "$", "%", "`", "\t", " ", "",
]  # fmt: skip


# What the generator writes before the functions.
_HEAD = 'VERSION = "x"\nfrom decimal import Decimal\n\nNoneType = type(None)\n'


def _everywhere(text: str) -> list[dict[str, Any]]:
    """Return schemas that contain `text` wherever free text is allowed."""
    return [
        {
            "title": text,
            "description": text,
            "$comment": text,
            "$id": text,
            "default": {text: text},
            "examples": [text],
        },
        {"properties": {text: {"type": "string", "enum": [text]}}, "required": [text], "additionalProperties": False},
        {"properties": {text: {"properties": {text: {"items": {"const": {text: [text, 1.5, None, True]}}}}}}},
        {"enum": [text, 1, {text: text}, [text]]},
        {"const": text},
        {"const": {text: {text: text}}},
        {"dependencies": {text: [text, text + "x"]}},
        {"dependencies": {text: {"required": [text]}}},
        {"definitions": {text: {"const": text}}},
        {"patternProperties": {"^a": {"const": text}}, "additionalProperties": {"enum": [text, 1]}},
        {"items": [{"const": text}], "additionalItems": {"properties": {text: {"not": {"const": text}}}}},
        {"anyOf": [{"required": [text]}, {"properties": {text: {"pattern": "x"}}}], "oneOf": [{"const": [text]}, True]},
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_a_schema_is_data(text: str):
    for schema in _everywhere(text):
        compile_validator(schema).violations({text: text, "a": [text]})
    assert compile_validator({"const": {text: [text]}}).violations({text: [text]}) == ()
    assert compile_validator({"enum": [text, 1]}).violations(text) == ()
    assert compile_validator({"enum": [text, 1]}).violations(text + "x") != ()
    assert compile_validator({"required": [text]}).violations({text + "x": 1}) != ()
    assert compile_validator({"properties": {text: False}}).violations({text: 1}) != ()
    assert compile_validator({"properties": {text: False}}).violations({text + "x": 1}) == ()


_hostile_text = st.one_of(
    st.lists(st.sampled_from(HOSTILE), max_size=4).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_hostile_text, _hostile_text)
def test_any_text_in_a_schema_is_data(text: str, other: str):
    for schema in _everywhere(text):
        compile_validator(schema).violations({other: text})
    validator = compile_validator({"properties": {text: {"enum": [other, 1]}}, "required": [text]})
    assert validator.violations({text: other}) == ()
    assert validator.violations({text: other + "x"}) != ()


@settings(max_examples=50, deadline=None)
@given(_hostile_text)
def test_any_text_as_a_pattern_reference_format_or_type_compiles_or_is_refused(text: str):
    for schema in (
        {"pattern": text},
        {"patternProperties": {text: True}},
        {"$ref": text},
        {"format": text},
        {"type": text},
    ):
        try:
            compile_validator(schema)
        except SchemaRefused:
            continue


@pytest.fixture
def io_attempts() -> Iterator[list[str]]:
    """Record every attempt to open a file or a connection or to start a process, by Python's audit events."""
    attempts: list[str] = []
    active = True

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if active and event in {
            "open",
            "socket.connect",
            "socket.getaddrinfo",
            "urllib.Request",
            "os.system",
            "subprocess.Popen",
        }:
            attempts.append(f"{event} {arguments}")

    sys.addaudithook(audit)
    yield attempts
    active = False


@pytest.mark.parametrize(
    "ref",
    [
        "http://127.0.0.1:9/x",
        "https://localhost/x#/a",
        "file:///etc/passwd",
        "/etc/passwd",
        "ftp://127.0.0.1/x",
        "data:,{}",
    ],
)
def test_no_reference_opens_a_file_or_a_connection(ref: str, io_attempts: list[str]):
    for schema in (
        {"$ref": ref},
        {"$id": ref, "$ref": "x"},
        {"$id": ref, "properties": {"a": {"$ref": "#/x"}}},
        {"$schema": ref},
    ):
        with pytest.raises(SchemaRefused):
            compile_validator(schema)
    compile_validator({"$id": ref, "definitions": {"a": True}, "items": {"$ref": "#/definitions/a"}}).violations([1])
    assert io_attempts == []


def test_the_audit_hook_records_files_and_connections(io_attempts: list[str]):
    with open(__file__, "rb"), socket.socket() as connection:  # noqa: PTH123
        connection.settimeout(1)
        connection.connect_ex(("127.0.0.1", 9))
    assert len(io_attempts) == 2


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "def validate(data, custom_formats={}, name_prefix=None):\n    import os",
        "def validate(data, custom_formats={}, name_prefix=None):\n    data.__class__",
        "def validate(data, custom_formats={}, name_prefix=None):\n    return (lambda: 1)()",
        "def validate(data, custom_formats={}, name_prefix=None):\n    eval('1')",
        "def validate(data, custom_formats={}, name_prefix=None):\n    data.format(1)",
        "def validate(data, custom_formats={}, name_prefix=None):\n    return f'{data}'",
        "def validate(data, custom_formats={}, name_prefix=None):\n    data['x'](1)",
        "def validate(data, custom_formats={}, name_prefix=None):\n    isinstance(data, *[int])",
        "def validate(data, custom_formats={}, name_prefix=None):\n    while True: pass",
        "def validate(data, custom_formats={}, name_prefix=None):\n    with data: pass",
        "def validate(data, custom_formats={}, name_prefix=None):\n    return b'x'",
        "@print\ndef validate(data, custom_formats={}, name_prefix=None):\n    return data",
        "def validate(data, other):\n    return data",
        "def evil(data):\n    return data",
        "def validate(data, custom_formats={}, name_prefix=None):\n    global data",
        "def validate(data, custom_formats={}, name_prefix=None):\n    x = 1",
        "def validate(data, custom_formats={}, name_prefix=None):\n    (data := 1)",
        "def validate(data, custom_formats={}, name_prefix=None):\n    yield data",
        "async def validate(data):\n    return data",
        "class validate: pass",
        "def validate(data, custom_formats={}, name_prefix=None):\n    data.items(key=1)",
        "raise SystemExit",
    ],
)
def test_generated_code_with_a_construct_outside_the_allow_list_is_refused(
    source: str, monkeypatch: pytest.MonkeyPatch
):
    # Whatever the generator is made to emit, only allow-listed constructs are compiled.
    monkeypatch.setattr(fastjsonschema, "compile_to_code", lambda *_, **__: _HEAD + source)
    with pytest.raises(SchemaRefused):
        generate(Lowered({}))


@pytest.mark.parametrize("source", ["import os", _HEAD + "validate = 1", "", _HEAD + "data = 1"])
def test_generated_code_of_an_unexpected_form_is_refused(source: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fastjsonschema, "compile_to_code", lambda *_, **__: source)
    with pytest.raises(SchemaRefused):
        bind(generate(Lowered({})), Lowered({}))


def _validator_of(body: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], object]:
    source = f"{_HEAD}def validate(data, custom_formats={{}}, name_prefix=None):\n    {body}\n    return data"
    monkeypatch.setattr(fastjsonschema, "compile_to_code", lambda *_, **__: source)
    return bind(generate(Lowered({})), Lowered({}))


def test_generated_code_runs_without_dangerous_builtins(monkeypatch: pytest.MonkeyPatch):
    validate = _validator_of("data_x = isinstance(data, int)", monkeypatch)
    names = validate.func.__globals__["__builtins__"]  # type: ignore[attr-defined]
    assert (
        not {"open", "eval", "exec", "compile", "__import__", "getattr", "globals", "locals", "print", "type", "input"}
        & names.keys()
    )


def test_error_messages_of_the_generator_are_not_compiled(monkeypatch: pytest.MonkeyPatch):
    # They contain member names, and formatting one could access attributes of objects.
    body = 'raise JsonSchemaValueException("" + (name_prefix or "data") + "{data.__class__}".format(**locals()) + "")'
    with pytest.raises(Broken):
        _validator_of(body, monkeypatch)(1)


def test_an_exception_in_the_generator_is_a_schema_refusal(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> str:
        raise KeyError("definition_rule")

    monkeypatch.setattr(fastjsonschema, "compile_to_code", fail)
    with pytest.raises(SchemaRefused, match="cannot be compiled") as refused:
        generate(Lowered({}))
    assert isinstance(refused.value.__cause__, KeyError)


def test_defaults_are_never_filled_in():
    value: dict[str, Any] = {}
    validator = compile_validator(
        {"properties": {"a": {"default": [1]}}, "default": {"b": 1}, "items": [{"default": 1}]}
    )
    assert validator.violations(value) == ()
    assert value == {}


def test_annotations_patterns_and_reference_names_do_not_reach_the_generator(monkeypatch: pytest.MonkeyPatch):
    received: list[str] = []
    original = fastjsonschema.compile_to_code

    def spy(schema: Any, **options: Any) -> str:
        received.append(json.dumps(schema))
        return str(original(schema, **options))

    monkeypatch.setattr(fastjsonschema, "compile_to_code", spy)
    secret = "only the author says this"
    compile_validator(
        {
            "title": secret, "$id": secret, "default": secret, "$comment": secret, "examples": [secret],
            "pattern": secret, "patternProperties": {secret: True, f"{secret}?": False}, "enum": [secret],
            "const": secret,
            "definitions": {secret: {"minimum": 1}}, "items": {"$ref": f"#/definitions/{secret.replace(' ', '%20')}"},
        }
    )  # fmt: skip
    assert received
    assert secret not in received[0]
