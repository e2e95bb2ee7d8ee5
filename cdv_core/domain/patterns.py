"""Patterns: the regular expressions of the `pattern` keyword, matched in linear time.

Schemas use the dialect of ECMA-262 with Unicode matching. It is translated, token by token, to the dialect of RE2,
which does not backtrack. What RE2 cannot express (look-around, back-references), or has another syntax for that is not
translated, is refused. See docs/adr/010-schema-patterns.md.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import re2

PATTERN_MAX_CHARS: Final = 1_000  # ours
_PROGRAM_MAX_BYTES: Final = 1 << 20  # ours: RE2's memory for one pattern: program and automaton

# ECMA-262 WhiteSpace and LineTerminator, and the complement. Each begins and ends with a class escape, so that an
# adjacent hyphen in a character class cannot form a range with its first or last character.
_SPACE: Final = r"\s\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}\s"
_NO_SPACE: Final = (
    r"\d\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}\x{202a}-\x{202e}"
    r"\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{fefe}\x{ff00}-\x{10ffff}\d"
)
_ANY_BUT_NEWLINE: Final = r"[^\n\r\x{2028}\x{2029}]"

_TOKEN: Final = re.compile(
    r"""
    (?P<surrogates> \\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2} )
  | \\(?: u(?P<four>[0-9a-fA-F]{4}) | u\{(?P<braced>[0-9a-fA-F]{1,6})\} | x(?P<two>[0-9a-fA-F]{2}) )
  | \\c(?P<control>[A-Za-z])
  | (?P<nul> \\0(?![0-9]) )
  | (?P<property> \\[pP]\{[A-Z][a-z]?\} )
  | (?P<same> \\[dDwWtnvfrbB] | \\[\^$\\.*+?()\[\]{}|/\-] )
  | (?P<space> \\[sS] )
  | (?P<escape> \\ )
  | (?P<group> \((?: \?: | \?<[A-Za-z_][A-Za-z0-9_]*> | (?!\?) ) )
  | (?P<strange_group> \(\? )
  | (?P<empty_class> \[\^?\] )
  | (?P<open> \[\^? )
  | (?P<repeat> \{[0-9]{1,4}(?:,[0-9]{0,4})?\} )
  | (?P<brace> [{}] )
  | (?P<other> . )
    """,
    re.VERBOSE | re.ASCII | re.DOTALL,
)


class PatternRefused(ValueError):
    """The pattern is invalid, or cannot be matched in linear time. The message says which."""


class Pattern:
    """A compiled pattern. `size`: the number of instructions of its program, the worst-case work per character."""

    def __init__(self, text: str) -> None:
        """Raises PatternRefused."""
        if len(text) > PATTERN_MAX_CHARS:
            raise PatternRefused(f"a pattern has at most {PATTERN_MAX_CHARS} characters")
        options = re2.Options()
        options.log_errors = False
        options.never_capture = True
        options.max_mem = _PROGRAM_MAX_BYTES
        try:
            # As bytes, which avoids computing character offsets.
            self._matcher = re2.compile(_translate(text).encode(), options)
        except re2.error as wrong:
            reason = wrong.args[0].decode() if isinstance(wrong.args[0], bytes) else str(wrong)
            raise PatternRefused(reason) from wrong
        self.size: int = self._matcher.programsize

    def search(self, text: str) -> bool:
        """Return whether the pattern matches anywhere in `text`, which must be valid Unicode."""
        return self._matcher.search(text.encode()) is not None


@lru_cache(maxsize=1_024)  # refusals are not cached
def compile_pattern(text: str) -> Pattern:
    """Return the compiled pattern, cached. Raises PatternRefused."""
    return Pattern(text)


def _translate(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PatternRefused("a lone surrogate") from None
    translated: list[str] = []
    in_class = False
    for token in _TOKEN.finditer(text):
        kind, spelling = token.lastgroup or "", token.group()
        translated.append(_in_class(kind, spelling, token) if in_class else _outside(kind, spelling, token))
        in_class = spelling not in {"]", "[]"} if in_class else kind == "open"
    if in_class:
        raise PatternRefused("a character class without its end")
    return "".join(translated)


def _outside(kind: str, spelling: str, token: re.Match[str]) -> str:
    if kind == "space":
        return f"[{_space(spelling)}]"
    if kind == "empty_class":
        raise PatternRefused("an empty character class")
    if kind == "brace":
        raise PatternRefused("a brace that is not part of a repetition: escape it")
    if kind == "strange_group":
        raise PatternRefused("look-around, flags and other extended groups")
    if spelling == ".":
        return _ANY_BUT_NEWLINE
    if spelling == "]":
        return r"\]"
    if kind in {"group", "open", "repeat", "other"}:
        return spelling.replace("(?<", "(?P<")
    return _character(kind, spelling, token)


def _in_class(kind: str, spelling: str, token: re.Match[str]) -> str:
    if kind == "space":
        return _space(spelling)
    if spelling == r"\b":
        return r"\x{8}"
    if spelling == r"\B":
        raise PatternRefused(r"\B in a character class")
    if kind == "open" or spelling == "[]":
        return spelling.replace("[", r"\[")
    if kind == "empty_class":
        raise PatternRefused("'[^]' in a character class: escape the bracket")
    if kind in {"group", "strange_group", "repeat", "brace", "other"}:
        return spelling
    return _character(kind, spelling, token)


def _space(spelling: str) -> str:
    return _SPACE if spelling == r"\s" else _NO_SPACE


def _character(kind: str, spelling: str, token: re.Match[str]) -> str:
    match kind:
        case "same" | "property":
            return spelling
        case "surrogates":
            high, low = int(spelling[2:6], 16), int(spelling[8:], 16)
            return rf"\x{{{0x10000 + ((high - 0xD800) << 10) + low - 0xDC00:x}}}"
        case "four" | "braced" | "two":
            point = int(token.group(kind), 16)
            if 0xD800 <= point <= 0xDFFF or point > 0x10FFFF:
                raise PatternRefused(f"{spelling} is not a character")
            return rf"\x{{{point:x}}}"
        case "control":
            return rf"\x{{{ord(token.group(kind)) % 32:x}}}"
        case "nul":
            return r"\x{0}"
    raise PatternRefused("an escape that is not one of ECMA-262's, or a back-reference")
