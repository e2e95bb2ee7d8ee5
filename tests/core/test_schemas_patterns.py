"""Patterns match as ECMA-262 defines, in linear time, or they are refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdv_core.domain.json_schema import SchemaRefused
from cdv_core.domain.patterns import Pattern, PatternRefused
from cdv_core.domain.validators import compile_validator

# ECMA-262's white space and line terminators, of which Python and RE2 omit some.
SPACES = "\t\n\v\f\r \u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


@pytest.mark.parametrize(
    ("text", "matching", "others"),
    [
        ("^x$", ["x"], ["x\n", "\nx", "xx"]),
        ("b", ["abc"], ["ac"]),
        ("^.$", ["a", "😀", "\u0085"], ["\n", "\r", "\u2028", "\u2029", ""]),
        (r"^\d+$", ["019"], ["\u0661"]),
        (r"^\w+$", ["aZ_9"], ["é"]),
        (r"^\W$", ["é", "-"], ["a"]),
        (r"^\s$", list(SPACES), ["a", "\u200b", ""]),
        (r"^\S$", ["a", "\u200b", "😀", "\x00"], list(SPACES)),
        (r"^[\s]$", list(SPACES), ["a"]),
        (r"^[^\s]$", ["a"], list(SPACES)),
        (r"^[\S]$", ["a", "\u200b"], list(SPACES)),
        (r"^[\s\S]$", ["a", *SPACES], [""]),
        (r"^[\s-x]$", ["-", "x", "\u00a0"], ["a"]),
        (r"^[\d-]$", ["1", "-"], ["a"]),
        (r"^\u00e9\u{1F600}\uD83D\uDE00\x41\cJ\0$", ["é😀😀A\n\0"], []),
        (r"^[\b]$", ["\x08"], ["b"]),
        (r"\bcat\b", ["a cat!"], ["concat"]),
        (r"^[[a]$", ["[", "a"], ["b", "[a"]),
        (r"a]", ["a]"], ["a"]),
        (r"^[\]\-\\/]$", ["]", "-", "\\", "/"], ["a"]),
        (r"^(?:ab|cd){2,3}?$", ["abcd", "ababab"], ["ab"]),
        (r"^(?<year>[0-9]{4})-(?<day>x)$", ["2024-x"], ["2024"]),
        (r"^\p{Lu}\P{L}$", ["É1"], ["éé"]),
        (r"^[\p{L}\d]+$", ["aé9"], ["-"]),
        (r"^\/\.\*\+\?\(\)\{\}\|\^\$$", ["/.*+?(){}|^$"], []),
        ("^[0-9A-Fa-f]{64}$", ["aB" * 32], ["a" * 63, "g" * 64]),
        ("a{0}b", ["b"], ["a"]),
    ],
)
def test_a_pattern_matches_as_ecma_262_defines(text: str, matching: list[str], others: list[str]):
    pattern = Pattern(text)
    assert [each for each in matching if not pattern.search(each)] == []
    assert [each for each in others if pattern.search(each)] == []


def test_an_opening_bracket_in_a_character_class_is_literal():
    assert Pattern(r"^[a[]b]$").search("[b]")


@pytest.mark.parametrize(
    "text",
    [
        "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", r"(a)\1", r"(?<n>a)\k<n>", "(?i)a", "(?P<n>a)", "(?#x)", "(?>a)",
        "a++", "a**", "*a",
        "(a", "a)", "[a", "[]", "[^]", "[a[^]]", "[b-a]", "a{2", "a}", "{", "a{,3}", "a{3,2}", "a{1001}",
            "(a{100}){100}",
        "(((a{10}){10}){10}){10}", r"\Z", r"\A", r"\Q", r"\_", r"\a", r"\p{Letter}", r"\p{Script=Greek}",
        r"\p{Zz}", r"\uD800",
        r"\uZZZZ", r"\u{110000}", r"\x4", r"\00", r"[\B]", r"[!-\s]", "\\", "x" * 1001, "\ud800",
    ],
)  # fmt: skip
def test_a_nonlinear_or_ambiguous_pattern_is_refused(text: str):
    with pytest.raises(PatternRefused):
        Pattern(text)
    with pytest.raises(SchemaRefused, match="/pattern"):
        compile_validator({"pattern": text})


def test_a_back_reference_is_refused_in_pattern_properties_too():
    with pytest.raises(SchemaRefused, match=r"/patternProperties/\(a\)"):
        compile_validator({"patternProperties": {r"(a)\1": True}})


@pytest.mark.parametrize(
    "text", ["^(a+)+$", "^(a|a)*$", "^(a|aa)+$", "(a*)*b", "^(([a-z])+.)+[A-Z]([a-z])+$", "(x+x+)+y", r"a*a*a*a*a*a*b"]
)
def test_a_pattern_that_stalls_backtracking_engines_is_matched_in_linear_time(text: str):
    # With a backtracking engine the suite's time limit would end the first of these.
    validator = compile_validator({"pattern": text})
    validator.violations("a" * 200_000 + "!")
    validator.violations("x" * 200_000)


@pytest.mark.parametrize("text", ["[ab]*a[ab]{900}c", r"^(?:\p{L}{1,100}){1,9}$"])
def test_a_pattern_whose_program_is_too_large_is_refused(text: str):
    with pytest.raises((SchemaRefused, PatternRefused)):
        compile_validator({"items": {"pattern": f"{text}{text}"}})


_pieces = st.sampled_from(
    [
        "a",
        "b",
        "1",
        "-",
        ".",
        "[ab]",
        "[^a]",
        "(?:a|b)",
        "(a)",
        "a*",
        "b+",
        "a?",
        "[0-9]{1,2}",
        r"\d",
        r"\.",
        r"\-",
        "^",
        "|",
        r"\w",
    ]
)


@settings(deadline=None)
@given(st.lists(_pieces, max_size=6), st.text("ab1-.é", max_size=8))
def test_patterns_common_to_python_and_ecma_262_match_alike(pieces: list[str], text: str):
    pattern = "".join(pieces)
    assert Pattern(pattern).search(text) == (re.search(pattern, text, re.ASCII) is not None)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_text_is_a_pattern_or_refused(text: str):
    try:
        pattern = Pattern(text)
    except PatternRefused:
        return
    assert pattern.size > 0
    assert pattern.search("a") in {True, False}
