"""Versions: Semantic Versioning 2.0.0, without build metadata, which would allow several texts for one version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Final, Self

from cdv_core.errors import InvalidField

_VERSION_MAX_CHARS: Final = 64  # ours
_NUMBER: Final = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER: Final = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER: Final = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?", re.ASCII
)


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """A version, ordered by precedence: a pre-release before its release. `str()` returns the parsed text."""

    major: int
    minor: int
    patch: int
    pre_release: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, field: str = "version") -> Self:
        """Raises InvalidField: not a semantic version, or one with build metadata."""
        match = _SEMVER.fullmatch(text) if len(text) <= _VERSION_MAX_CHARS else None
        if match is None:
            raise InvalidField(field, "must be a semantic version without build metadata (such as 1.2.0)")
        major, minor, patch, pre_release = match.groups()
        return cls(int(major), int(minor), int(patch), tuple(pre_release.split(".")) if pre_release else ())

    def __str__(self) -> str:
        release = f"{self.major}.{self.minor}.{self.patch}"
        return f"{release}-{'.'.join(self.pre_release)}" if self.pre_release else release

    def __lt__(self, other: Self) -> bool:
        return self._precedence < other._precedence

    @property
    def _precedence(self) -> tuple[object, ...]:
        # semver 2.0.0, section 11: numbers before words, fewer fields before more, any pre-release before the release.
        fields = tuple((0, int(text), "") if text.isdigit() else (1, 0, text) for text in self.pre_release)
        return self.major, self.minor, self.patch, not self.pre_release, fields
